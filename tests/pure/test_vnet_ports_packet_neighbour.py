"""ARP and neighbour discovery of a port without a link layer: what it says, whom it believes, what it keeps."""

from __future__ import annotations

from ipaddress import ip_address

import hypothesis.strategies as st
import pytest
from hypothesis import given
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, raw
from scapy.utils6 import in6_getnsma, in6_getnsmac

from vnet.ports.packet.neighbour import OUTBOX_FRAMES, RETRY_SECONDS, TRIES, WAITING_PACKETS_MAX, Neighbour
from vnet.ports.packet.packets import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    Arp,
    NeighbourMessage,
    multicast_mac,
    solicited_node,
)

OUR_MAC, PEER_MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
OUR_IP, PEER_IP = "198.18.0.1", "198.18.0.2"
OUR_IPV6, PEER_IPV6 = "2001:2::1", "2001:2::2"
LINK_LOCAL = "fe80::1"
HEADER = bytes(range(12))

macs = st.binary(min_size=6, max_size=6)
ipv4s = st.binary(min_size=4, max_size=4)
ipv6s = st.binary(min_size=16, max_size=16).filter(lambda address: address[0] != 0xFF and any(address))


def packed(address: str) -> bytes:
    return ip_address(address).packed


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def neighbour(peer: str | None = None) -> Neighbour:
    addresses = [packed(address) for address in (OUR_IP, OUR_IPV6, LINK_LOCAL)]
    return Neighbour(mac(OUR_MAC), addresses, None if peer is None else mac(peer))


def receive(one: Neighbour, frame: Packet) -> bool:
    data = raw(frame)
    return one.received(data[6:12], int.from_bytes(data[12:14], "big"), data[14:])


def sent(one: Neighbour) -> list[Packet]:
    """The packets waiting to be sent, decoded, after a check of each virtio_net_hdr."""
    frames = []
    while one.outbox:
        frame = one.outbox.popleft()
        assert frame[:12] in (bytes(12), HEADER)
        frames.append(Ether(frame[12:]))
    return frames


def packet(to: str = PEER_IP, number: int = 0) -> bytes:
    layer = IP(src=OUR_IP, dst=to) if "." in to else IPv6(src=OUR_IPV6, dst=to)
    return bytes(raw(layer / UDP(sport=1000 + number)))


def arp_request(**fields: object) -> Packet:
    wanted = {"op": 1, "hwsrc": PEER_MAC, "psrc": PEER_IP, "pdst": OUR_IP} | fields
    return Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(**wanted)


def solicitation(target: str = OUR_IPV6, source: str = PEER_IPV6, **fields: object) -> Packet:
    group = in6_getnsma(packed(target))
    address = str(ip_address(group))
    option = ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC)
    head = Ether(src=PEER_MAC, dst=in6_getnsmac(group)) / IPv6(
        **({"src": source, "dst": address, "hlim": 255} | fields)
    )
    return head / ICMPv6ND_NS(tgt=target) / option


# What it says, against scapy


@given(st.sampled_from([1, 2]), macs, ipv4s, macs, ipv4s)
def test_arp_is_what_scapy_makes_of_it(op: int, hwsrc: bytes, psrc: bytes, hwdst: bytes, pdst: bytes) -> None:
    ours = Arp(op, hwsrc, psrc, hwdst, pdst)
    theirs = ARP(
        op=op, hwsrc=hwsrc.hex(":"), psrc=str(ip_address(psrc)), hwdst=hwdst.hex(":"), pdst=str(ip_address(pdst))
    )
    assert ours.emit() == raw(theirs)
    assert Arp.parse(raw(theirs) + bytes(18)) == ours


@given(ipv6s, ipv6s, ipv6s, st.none() | macs)
def test_a_solicitation_is_what_scapy_makes_of_it(
    source: bytes, destination: bytes, target: bytes, option: bytes | None
) -> None:
    ours = NeighbourMessage(NEIGHBOUR_SOLICITATION, source, destination, target, option)
    head = IPv6(src=str(ip_address(source)), dst=str(ip_address(destination)), hlim=255)
    theirs = head / ICMPv6ND_NS(tgt=str(ip_address(target)))
    if option is not None:
        theirs /= ICMPv6NDOptSrcLLAddr(lladdr=option.hex(":"))
    assert ours.emit() == raw(theirs)
    assert NeighbourMessage.parse(raw(theirs)) == ours


@given(ipv6s, ipv6s, ipv6s, st.none() | macs, st.integers(0, 7))
def test_an_advertisement_is_what_scapy_makes_of_it(
    source: bytes, destination: bytes, target: bytes, option: bytes | None, flags: int
) -> None:
    ours = NeighbourMessage(NEIGHBOUR_ADVERTISEMENT, source, destination, target, option, flags << 5)
    head = IPv6(src=str(ip_address(source)), dst=str(ip_address(destination)), hlim=255)
    theirs = head / ICMPv6ND_NA(R=flags >> 2, S=flags >> 1 & 1, O=flags & 1, tgt=str(ip_address(target)))
    if option is not None:
        theirs /= ICMPv6NDOptDstLLAddr(lladdr=option.hex(":"))
    assert ours.emit() == raw(theirs)
    assert NeighbourMessage.parse(raw(theirs)) == ours


@given(ipv6s)
def test_the_solicited_node_group_and_its_mac_are_scapys(address: bytes) -> None:
    group = in6_getnsma(address)
    assert solicited_node(address) == group
    assert multicast_mac(group) == mac(in6_getnsmac(group))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("224.0.0.251", "01:00:5e:00:00:fb"),
        ("239.255.1.2", "01:00:5e:7f:01:02"),
        ("255.255.255.255", "ff:ff:ff:ff:ff:ff"),
        ("ff02::1:ff00:1", "33:33:ff:00:00:01"),
    ],
)
def test_a_group_has_the_mac_of_the_standard_mapping(address: str, expected: str) -> None:
    assert multicast_mac(packed(address)) == mac(expected)


# What it makes of nonsense


@given(st.binary(max_size=120), st.sampled_from([ETH_P_ARP, ETH_P_IPV6, ETH_P_IP]))
def test_noise_is_never_answered_and_never_raises(payload: bytes, ethertype: int) -> None:
    one = neighbour(PEER_MAC)
    one.received(mac(PEER_MAC), ethertype, payload)
    assert not one.outbox


@given(st.data())
def test_a_solicitation_with_one_bit_flipped_is_never_believed(data: st.DataObject) -> None:
    whole = raw(solicitation())[14:]
    # Everything behind the IPv6 header is under the checksum.
    at = data.draw(st.integers(40 * 8, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[at // 8] ^= 1 << at % 8
    assert NeighbourMessage.parse(bytes(broken)) is None


def without_option_length() -> Packet:
    return solicitation() / ICMPv6NDOptUnknown(type=200, len=0, data=b"")


@pytest.mark.parametrize(
    "frame",
    [
        solicitation(hlim=254),
        solicitation(target="ff02::1"),
        solicitation(dst=OUR_IPV6, source="::"),
        solicitation(source="::"),  # carries the option, which one from :: must not
        without_option_length(),
    ],
    ids=["hop limit", "target is a group", "probe to one address", "probe with a MAC", "option of no length"],
)
def test_a_solicitation_that_breaks_a_rule_of_rfc_4861_is_taken_and_ignored(frame: Packet) -> None:
    one = neighbour(PEER_MAC)
    assert receive(one, frame)
    assert sent(one) == []


def test_a_truncated_arp_is_taken_and_ignored() -> None:
    one = neighbour(PEER_MAC)
    assert one.received(mac(PEER_MAC), ETH_P_ARP, raw(arp_request())[14:41])
    assert sent(one) == []


# Whom it answers


def test_a_request_for_our_address_is_answered_and_teaches_the_peer() -> None:
    one = neighbour()
    assert receive(one, arp_request())
    [reply] = sent(one)
    assert (reply.dst, reply.src) == (PEER_MAC, OUR_MAC)
    assert reply[ARP].op == 2
    assert (reply[ARP].hwsrc, reply[ARP].psrc) == (OUR_MAC, OUR_IP)
    assert (reply[ARP].hwdst, reply[ARP].pdst) == (PEER_MAC, PEER_IP)
    assert one.peer == mac(PEER_MAC)


@pytest.mark.parametrize("target", [OUR_IPV6, LINK_LOCAL])
def test_a_solicitation_for_our_address_is_answered_and_teaches_the_peer(target: str) -> None:
    one = neighbour()
    assert receive(one, solicitation(target))
    [answer] = sent(one)
    assert (answer.dst, answer.src) == (PEER_MAC, OUR_MAC)
    assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (target, PEER_IPV6, 255)
    events = answer[ICMPv6ND_NA]
    assert (events.tgt, events.R, events.S, events.O) == (target, 0, 1, 1)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC
    assert one.peer == mac(PEER_MAC)


def test_a_solicitation_without_the_option_is_answered_to_the_mac_it_came_from() -> None:
    one = neighbour()
    assert receive(one, Ether(src=PEER_MAC) / IPv6(src=PEER_IPV6, dst=OUR_IPV6, hlim=255) / ICMPv6ND_NS(tgt=OUR_IPV6))
    assert [frame.dst for frame in sent(one)] == [PEER_MAC]


@pytest.mark.parametrize(
    "frame",
    [
        arp_request(pdst=PEER_IP),
        arp_request(psrc=OUR_IP),
        arp_request(hwsrc="ff:ff:ff:ff:ff:ff"),
        arp_request(op=2, hwdst=OTHER_MAC),
        solicitation(PEER_IPV6),
        solicitation(source=OUR_IPV6),
    ],
    ids=[
        "ARP for another",
        "ARP announcement of our address",
        "ARP from a group",
        "ARP reply to another",
        "solicitation for another",
        "solicitation from our address",
    ],
)
def test_requests_for_other_addresses_are_taken_and_not_answered(frame: Packet) -> None:
    one = neighbour(OTHER_MAC)
    assert receive(one, frame)
    assert sent(one) == []
    assert one.peer == mac(OTHER_MAC)


def test_other_packets_are_left_to_the_port_behind_us() -> None:
    one = neighbour()
    assert not one.received(mac(PEER_MAC), ETH_P_IP, packet(OUR_IP))
    assert not one.received(mac(PEER_MAC), ETH_P_IPV6, packet(OUR_IPV6))
    assert one.peer == mac(PEER_MAC)


def test_a_peer_that_asks_faster_than_it_reads_is_answered_a_bounded_number_of_times() -> None:
    one = neighbour()
    for _ in range(3 * OUTBOX_FRAMES):
        receive(one, arp_request())
    assert len(one.outbox) == OUTBOX_FRAMES


# Whom it believes


def test_a_configured_address_is_never_overruled() -> None:
    one = neighbour(OTHER_MAC)
    receive(one, arp_request())
    receive(one, solicitation())
    assert one.peer == mac(OTHER_MAC)
    one.reset()
    assert one.peer == mac(OTHER_MAC)


def test_a_learnt_address_is_overruled_by_the_peers_own_word_and_not_by_a_frame() -> None:
    one = neighbour()
    one.received(mac(OTHER_MAC), ETH_P_IP, packet(OUR_IP))
    one.received(mac(PEER_MAC), ETH_P_IP, packet(OUR_IP))
    assert one.peer == mac(OTHER_MAC)
    receive(one, arp_request())
    assert one.peer == mac(PEER_MAC)
    one.reset()
    assert one.peer is None


@pytest.mark.parametrize("source", ["01:00:5e:00:00:01", "00:00:00:00:00:00", OUR_MAC])
def test_no_peer_has_the_mac_of_a_group_the_zero_mac_or_our_own(source: str) -> None:
    one = neighbour()
    one.received(mac(source), ETH_P_IP, packet(OUR_IP))
    assert one.peer is None


# What it keeps


def test_a_held_packet_asks_and_goes_out_when_the_reply_comes() -> None:
    one = neighbour()
    assert one.hold(HEADER, packet(), now=5.0) == 0
    [request] = sent(one)
    assert (request.dst, request.src) == ("ff:ff:ff:ff:ff:ff", OUR_MAC)
    assert (request[ARP].op, request[ARP].psrc, request[ARP].pdst) == (1, OUR_IP, PEER_IP)
    assert one.deadline == 5.0 + RETRY_SECONDS
    reply = ARP(op=2, hwsrc=PEER_MAC, psrc=PEER_IP, hwdst=OUR_MAC, pdst=OUR_IP)
    assert receive(one, Ether(src=PEER_MAC, dst=OUR_MAC) / reply)
    [frame] = sent(one)
    assert raw(frame) == mac(PEER_MAC) + mac(OUR_MAC) + b"\x08\x00" + packet()
    assert not one.busy


def test_a_held_ipv6_packet_asks_the_group_and_goes_out_when_the_advertisement_comes() -> None:
    one = neighbour()
    one.hold(HEADER, packet(PEER_IPV6), now=0.0)
    [requests] = sent(one)
    group = in6_getnsma(packed(PEER_IPV6))
    assert (requests.dst, requests[IPv6].src, packed(requests[IPv6].dst)) == (in6_getnsmac(group), OUR_IPV6, group)
    assert requests[ICMPv6ND_NS].tgt == PEER_IPV6
    assert requests[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    events = ICMPv6ND_NA(R=0, S=1, O=1, tgt=PEER_IPV6) / ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC)
    assert receive(one, Ether(src=OTHER_MAC, dst=OUR_MAC) / IPv6(src=PEER_IPV6, dst=OUR_IPV6, hlim=255) / events)
    # The frame's own source taught first; the option, the peer's own word, overruled it.
    assert one.peer == mac(PEER_MAC)
    assert [frame[IPv6].dst for frame in sent(one)] == [PEER_IPV6]


def test_the_question_is_put_from_an_address_of_ours_even_for_a_forwarded_packet() -> None:
    one = neighbour()
    one.hold(HEADER, raw(IP(src="198.19.0.9", dst=PEER_IP) / UDP()), now=0.0)
    [request] = sent(one)
    assert request[ARP].psrc == OUR_IP


def test_one_destination_is_requested_once_however_many_packets_wait() -> None:
    one = neighbour()
    for number, to in enumerate((PEER_IP, PEER_IP, PEER_IPV6)):
        one.hold(HEADER, packet(to, number), now=0.0)
    assert len(sent(one)) == 2


def test_beyond_three_the_oldest_packet_gives_way() -> None:
    one = neighbour()
    lost = [one.hold(HEADER, packet(number=number), now=0.0) for number in range(WAITING_PACKETS_MAX + 2)]
    assert lost == [0] * WAITING_PACKETS_MAX + [1, 1]
    sent(one)
    one.received(mac(PEER_MAC), ETH_P_IP, packet(OUR_IP))
    assert [frame[UDP].sport for frame in sent(one)] == [1002, 1003, 1004]


def test_after_three_questions_a_second_apart_the_packets_are_dropped() -> None:
    one = neighbour()
    one.hold(HEADER, packet(number=0), now=0.0)
    one.hold(HEADER, packet(number=1), now=0.5)
    requests = [(0.0, len(sent(one)))]
    lost = 0
    for step in range(1, 100):
        now = step / 10
        before = lost
        lost += one.poll(now)
        if frames := sent(one):
            requests.append((now, len(frames)))
        if lost > before:
            assert now == TRIES * RETRY_SECONDS
    assert requests == [(0.0, 1), (1.0, 1), (2.0, 1)]
    assert lost == 2
    assert not one.busy


def test_after_giving_up_the_next_packet_starts_over() -> None:
    one = neighbour()
    one.hold(HEADER, packet(), now=0.0)
    for now in (1.0, 2.0, 3.0):
        one.poll(now)
    sent(one)
    one.hold(HEADER, packet(), now=10.0)
    assert len(sent(one)) == 1
    assert one.deadline == 11.0


def test_a_reset_tells_how_much_it_threw_away() -> None:
    one = neighbour()
    one.hold(HEADER, packet(), now=0.0)
    assert one.reset() == 2  # the packet, and the question about it
    assert not one.busy
