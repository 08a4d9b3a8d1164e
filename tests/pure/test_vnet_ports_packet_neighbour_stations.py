"""Several stations behind one TUN: who is asked for, who is believed, how long, and who gets which packet."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from scapy.utils6 import in6_getnsma

from vnet.ports.packet.neighbour import QUESTIONS_MAX, STATIONS_MAX, WAITING_PACKETS_MAX, Neighbour

OUR_MAC, A_MAC, B_MAC, PEER_MAC = (f"02:00:00:00:00:0{n}" for n in (1, 2, 3, 9))
OURS = ("198.18.0.1/24", "2001:2::1/64", "fe80::1/64")
OUR_IP, OUR_IPV6 = "198.18.0.1", "2001:2::1"
A, B, A6, B6 = "198.18.0.2", "198.18.0.3", "2001:2::2", "2001:2::3"
FAR, FAR6 = "198.19.0.7", "2001:2:0:7::7"
HEADER = bytes(range(12))


def packed(address: str) -> bytes:
    return ip_address(address).packed


def mac(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text.replace(":", ""))


def neighbour(peer: str | None = None) -> Neighbour:
    own = mac(OUR_MAC)
    assert own is not None
    one = Neighbour(own, peer=mac(peer))
    interfaces = [ip_interface(text) for text in OURS]
    one.set_addresses([i.ip.packed for i in interfaces], [(i.ip.packed, i.network.prefixlen) for i in interfaces])
    return one


def receive(one: Neighbour, frame: Packet) -> bool:
    data = bytes(frame)
    return one.received(data[6:12], int.from_bytes(data[12:14], "big"), data[14:])


def sent(one: Neighbour) -> list[Packet]:
    frames = [Ether(frame[12:]) for frame in one.outbox]
    one.outbox.clear()
    return frames


def packet(to: str, source: str | None = None) -> bytes:
    if "." in to:
        return bytes(IP(src=source or OUR_IP, dst=to) / UDP(sport=7))
    return bytes(IPv6(src=source or OUR_IPV6, dst=to) / UDP(sport=7))


def speaks(address: str, hwsrc: str, **fields: object) -> Packet:
    """A station says which MAC it has, in a question about our address."""
    if "." in address:
        return Ether(src=hwsrc) / ARP(**({"op": 1, "hwsrc": hwsrc, "psrc": address, "pdst": OUR_IP} | fields))
    answer = ICMPv6ND_NA(R=0, S=1, O=1, tgt=address) / ICMPv6NDOptDstLLAddr(lladdr=hwsrc)
    return Ether(src=hwsrc) / IPv6(src=address, dst=OUR_IPV6, hlim=255) / answer


def sends(address: str, hwsrc: str) -> Packet:
    """A station sends us something else."""
    head = IP(src=address, dst=OUR_IP) if "." in address else IPv6(src=address, dst=OUR_IPV6)
    return Ether(src=hwsrc, dst=OUR_MAC) / head / UDP()


def actual(one: Neighbour, to: str, now: float = 0.0) -> tuple[str | None, bool]:
    """Where a packet goes that is handled as a port does it."""
    at, known = one.find(packet(to), now)
    if not known:
        one.hold(HEADER, packet(to), now)
    return (None if at is None else at.hex(":")), known


# Duplicates


def test_a_probe_for_our_address_is_answered_so_that_its_sender_does_not_take_it() -> None:
    """RFC 5227, section 2.1.1, by the rule of RFC 826; nothing is learnt from a sender without an address."""
    one = neighbour()
    assert receive(one, speaks("0.0.0.0", A_MAC))
    [reply] = sent(one)
    assert (reply.dst, reply.src, reply[ARP].op) == (A_MAC, OUR_MAC, 2)
    assert (reply[ARP].hwsrc, reply[ARP].psrc) == (OUR_MAC, OUR_IP)
    assert (reply[ARP].hwdst, reply[ARP].pdst) == (A_MAC, "0.0.0.0")
    assert receive(one, speaks("0.0.0.0", A_MAC, pdst=A))
    assert sent(one) == []


@pytest.mark.parametrize("target", [OUR_IPV6, "fe80::1"])
def test_duplicate_address_detection_of_our_address_is_answered_to_all_nodes(target: str) -> None:
    """RFC 4862, section 5.4.3, and RFC 4861, section 7.2.4: not solicited, override."""
    one = neighbour()
    group = str(ip_address(in6_getnsma(packed(target))))
    probe = Ether(src=A_MAC) / IPv6(src="::", dst=group, hlim=255) / ICMPv6ND_NS(tgt=target)
    assert receive(one, probe)
    [answer] = sent(one)
    assert (answer.dst, answer.src) == ("33:33:00:00:00:01", OUR_MAC)
    assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (target, "ff02::1", 255)
    output = answer[ICMPv6ND_NA]
    assert (output.tgt, output.R, output.S, output.O) == (target, 0, 0, 1)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC


def test_addresses_that_come_are_answered_for_and_those_that_went_are_not() -> None:
    one = neighbour()
    one.set_addresses([packed("198.18.0.22"), packed("2001:2::22")])
    assert receive(one, speaks(A, A_MAC))
    assert sent(one) == []
    assert receive(one, speaks(A, A_MAC, pdst="198.18.0.22"))
    assert [frame[ARP].psrc for frame in sent(one)] == ["198.18.0.22"]


# Several stations


@pytest.mark.parametrize(("first", "second"), [(A, B), (A6, B6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("peer", [None, PEER_MAC], ids=["no peer named", "peer named"])
def test_each_station_gets_what_is_for_it(first: str, second: str, peer: str | None) -> None:
    one = neighbour(peer)
    receive(one, speaks(first, A_MAC))
    receive(one, speaks(second, B_MAC))
    sent(one)
    assert [actual(one, to) for to in (first, second, first)] == [(A_MAC, True), (B_MAC, True), (A_MAC, True)]
    assert not one.busy


@pytest.mark.parametrize("to", [B, B6], ids=["IPv4", "IPv6"])
def test_an_unknown_destination_is_requested_though_another_station_is_known(to: str) -> None:
    one = neighbour()
    receive(one, speaks(A if to == B else A6, A_MAC))
    sent(one)
    assert actual(one, to) == (None, False)
    [question] = sent(one)
    assert question.dst == ("ff:ff:ff:ff:ff:ff" if to == B else "33:33:ff:00:00:03")
    reply = ARP(op=2, hwsrc=B_MAC, psrc=B, hwdst=OUR_MAC, pdst=OUR_IP)
    receive(one, Ether(src=B_MAC, dst=OUR_MAC) / reply if to == B else speaks(B6, B_MAC))
    [held] = sent(one)
    assert (held.dst, bytes(held)[14:]) == (B_MAC, packet(to))
    assert actual(one, to) == (B_MAC, True)


def test_without_an_answer_each_packet_is_counted_once() -> None:
    one = neighbour(PEER_MAC)
    receive(one, speaks(A, A_MAC))
    lost = sum(one.hold(HEADER, packet(B), now=0.0) for _ in range(10))
    lost += sum(one.poll(now / 2) for now in range(10))
    assert lost == 10
    assert not one._questions
    assert actual(one, B, now=9.0) == (None, False), "asked again for the next packet"


def test_more_destinations_than_can_be_requested_are_dropped_and_counted() -> None:
    one = neighbour()
    receive(one, speaks(A, A_MAC))
    one.set_addresses([packed("198.18.0.1")], [(packed("198.18.0.1"), 15)])
    lost = [one.hold(HEADER, packet(f"198.18.1.{n}"), now=0.0) for n in range(QUESTIONS_MAX + 5)]
    assert lost == [0] * QUESTIONS_MAX + [1] * 5


# The default station


def test_packets_beyond_our_networks_go_to_the_peer_without_a_request() -> None:
    one = neighbour(PEER_MAC)
    for to in (FAR, FAR6):
        assert actual(one, to) == (PEER_MAC, True)
    assert not one.busy


def test_the_peer_is_the_station_and_not_its_mac() -> None:
    """A TAP that is given another MAC says so in its next question; what goes by way of it follows."""
    one = neighbour(PEER_MAC)
    receive(one, speaks(A, PEER_MAC))
    receive(one, speaks(A, A_MAC))
    assert actual(one, FAR) == actual(one, A) == (A_MAC, True)
    receive(one, speaks(B, B_MAC))
    assert actual(one, FAR) == (A_MAC, True)


def test_a_station_beyond_our_networks_is_answered_by_the_way_it_came() -> None:
    one = neighbour(PEER_MAC)
    receive(one, sends(FAR, B_MAC))
    assert actual(one, FAR) == (B_MAC, True)


def test_a_peer_that_never_asks_or_answers_gets_packets_at_once_all_the_same() -> None:
    one = neighbour(PEER_MAC)
    assert actual(one, A) == (PEER_MAC, False)
    assert [frame[ARP].pdst for frame in sent(one)] == [A]
    lost = sum(one.poll(float(now)) for now in range(1, 5))
    assert (lost, actual(one, A, now=5.0)) == (0, (PEER_MAC, True))
    assert len(sent(one)) == 2
    assert not one.busy
    one.age()
    assert actual(one, A, now=9.0) == (PEER_MAC, False), "it is asked again from time to time"


@pytest.mark.parametrize(("answers", "again"), [(PEER_MAC, 0), (B_MAC, 1)], ids=["the peer", "another station"])
def test_packets_sent_to_the_peer_at_first_go_to_the_station_that_answers(answers: str, again: int) -> None:
    one = neighbour(PEER_MAC)
    assert actual(one, A) == (PEER_MAC, False)
    sent(one)
    receive(one, speaks(A, answers))
    held = [frame for frame in sent(one) if ARP not in frame]
    assert [frame.dst for frame in held] == [answers] * again
    assert actual(one, A) == (answers, True)


def test_a_driver_that_changes_its_mac_is_followed_for_all_of_its_addresses() -> None:
    one = neighbour(PEER_MAC)
    receive(one, speaks(A, PEER_MAC))
    receive(one, speaks(B, B_MAC))
    other = mac(A_MAC)
    assert other is not None
    one.configure(other)
    assert [actual(one, to)[0] for to in (A, B, FAR)] == [A_MAC, B_MAC, A_MAC]


# What is believed


def test_a_station_overrules_what_was_known_and_a_frame_does_not() -> None:
    one = neighbour()
    receive(one, speaks(A, A_MAC))
    receive(one, sends(A, B_MAC))
    assert actual(one, A) == (A_MAC, True)
    receive(one, speaks(A, B_MAC))
    assert actual(one, A) == (B_MAC, True)


@pytest.mark.parametrize(
    "frame",
    [
        Ether(src=B_MAC) / ARP(op=1, hwsrc=B_MAC, psrc=A, pdst=A),
        Ether(src=B_MAC) / ARP(op=2, hwsrc=B_MAC, psrc=A, hwdst="ff:ff:ff:ff:ff:ff", pdst=A),
    ],
    ids=["request", "reply"],
)
def test_an_announcement_updates_known_stations_and_adds_none(frame: Packet) -> None:
    """RFC 826, the merge flag; RFC 5227, section 3."""
    one = neighbour()
    receive(one, frame)
    assert not one._recent
    receive(one, speaks(A, A_MAC))
    receive(one, frame)
    assert actual(one, A) == (B_MAC, True)


@pytest.mark.parametrize(("override", "wins"), [(0, A_MAC), (1, B_MAC)])
def test_an_unsolicited_advertisement_updates_who_is_known_if_it_may(override: int, wins: str) -> None:
    """RFC 4861, section 7.2.5."""
    one = neighbour()
    output = ICMPv6ND_NA(R=0, S=0, O=override, tgt=A6) / ICMPv6NDOptDstLLAddr(lladdr=B_MAC)
    frame = Ether(src=B_MAC) / IPv6(src=A6, dst="ff02::1", hlim=255) / output
    receive(one, frame)
    assert not one._recent
    receive(one, speaks(A6, A_MAC))
    receive(one, frame)
    assert actual(one, A6) == (wins, True)


@pytest.mark.parametrize(
    "frame",
    [
        sends(OUR_IP, A_MAC),
        sends("0.0.0.0", A_MAC),
        sends("198.18.0.255", A_MAC),
        sends("224.0.0.1", A_MAC),
        sends("::", A_MAC),
        sends(A, OUR_MAC),
        sends(A, "01:00:5e:00:00:01"),
        Ether(src=A_MAC, type=0x0800) / bytes(IPv6(src=A6, dst=OUR_IPV6)),
    ],
    ids=["ours", "none", "broadcast", "group", "unspecified", "our MAC", "a group's MAC", "another version"],
)
def test_no_station_has_an_address_that_can_not_be_one(frame: Packet) -> None:
    one = neighbour()
    receive(one, frame)
    assert not one._recent


# How long


@pytest.mark.parametrize(("address", "other"), [(A, B), (A6, B6)], ids=["IPv4", "IPv6"])
def test_a_silent_station_is_probed_directly_and_used_until_it_is_given_up(address: str, other: str) -> None:
    one = neighbour()
    receive(one, speaks(address, A_MAC))
    sent(one)
    one.age()
    assert actual(one, address) == (A_MAC, True)
    [question] = sent(one)
    assert question.dst == A_MAC
    lost = sum(one.poll(float(now)) for now in range(1, 5))
    assert lost == 0
    assert [frame.dst[:5] for frame in sent(one)] == ["ff:ff" if address == A else "33:33"] * 2
    assert actual(one, address, now=9.0) == (None, False)


@pytest.mark.parametrize("confirm", [speaks, sends])
def test_a_station_that_sends_stays(confirm: object) -> None:
    one = neighbour()
    receive(one, speaks(A, A_MAC))
    for _ in range(3):
        one.age()
        assert callable(confirm)
        receive(one, confirm(A, A_MAC))
    sent(one)
    assert actual(one, A) == (A_MAC, True)
    assert not one.busy


def test_a_station_that_moved_silently_is_found_by_the_next_request() -> None:
    one = neighbour()
    receive(one, speaks(A, A_MAC))
    one.age()
    actual(one, A)
    sent(one)
    one.poll(1.0)
    receive(one, speaks(A, B_MAC))
    assert actual(one, A) == (B_MAC, True)


def test_stations_are_bounded_and_the_recent_ones_stay() -> None:
    one = neighbour()
    one.set_addresses([packed(OUR_IP)], [(packed("198.18.0.0"), 15)])
    for number in range(3 * STATIONS_MAX):
        receive(one, sends(str(ip_address("198.18.4.0") + number), A_MAC))
    assert len(one._recent) + len(one._aged) <= 2 * STATIONS_MAX
    assert actual(one, str(ip_address("198.18.4.0") + 3 * STATIONS_MAX - 1)) == (A_MAC, True)


def test_every_change_of_a_packets_destination_changes_the_version() -> None:
    one = neighbour()
    versions = [one.version]
    for frame in (speaks(A, A_MAC), speaks(A, B_MAC), sends(B, B_MAC)):
        receive(one, frame)
        versions.append(one.version)
    one.age()
    versions.append(one.version)
    receive(one, sends(A, B_MAC))  # confirms what was known
    assert sorted(set(versions)) == versions
    assert one.version == versions[-1]


# Groups


@pytest.mark.parametrize(
    ("to", "at"),
    [
        ("198.18.0.255", "ff:ff:ff:ff:ff:ff"),
        ("255.255.255.255", "ff:ff:ff:ff:ff:ff"),
        ("239.1.2.3", "01:00:5e:01:02:03"),
        ("ff02::1:ff00:2", "33:33:ff:00:00:02"),
    ],
)
def test_groups_and_the_broadcast_address_of_our_network_are_sent_to_all(to: str, at: str) -> None:
    assert actual(neighbour(PEER_MAC), to) == (at, True)


def test_the_upper_address_of_a_network_of_two_is_a_station() -> None:
    one = neighbour()
    one.set_addresses([packed("198.18.0.2")], [(packed("198.18.0.2"), 31)])
    receive(one, sends("198.18.0.3", A_MAC))
    assert actual(one, "198.18.0.3") == (A_MAC, True)


def test_held_packets_of_one_destination_do_not_push_out_those_of_another() -> None:
    one = neighbour()
    receive(one, speaks("198.18.0.9", A_MAC))
    assert sum(one.hold(HEADER, packet(to), now=0.0) for _ in range(WAITING_PACKETS_MAX) for to in (A, B)) == 0
