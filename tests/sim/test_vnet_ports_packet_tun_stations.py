"""A TUN port sends each packet to its own station, also after others with the same header."""

from __future__ import annotations

from ipaddress import ip_address

import trio
import trio.testing

from support.rigs.tun import (
    ALL,
    ARP,
    IPV4,
    OTHER,
    OUR_IP,
    OWN,
    PEER,
    PEER_IP,
    PLAIN,
    Socket,
    arp,
    frame,
    ipv4,
    receive,
    room,
)
from vnet.linux.netlink.link_table import InterfaceState
from vnet.ports.packet.neighbour import AGE_SECONDS
from vnet.ports.packet.tun import TunPort

THIRD_IP = ip_address("198.18.0.3").packed
TO_PEER, TO_THIRD, FAR = (ipv4(to) for to in ("198.18.0.2", "198.18.0.3", "198.19.0.1"))
ROOM = 2000


async def tun(device: Socket, lead: TunPort | None = None) -> TunPort:
    port = TunPort(device, "vnet0", mac=OWN, peer_mac=PEER, lead=lead)
    if lead is None:
        port.interface_changed(InterfaceState("vnet0", addresses=(OUR_IP,), networks=((OUR_IP, 24),)))
        await port.start(mac=OWN, offloads=ALL, mtu=None)
    return port


def says(port: TunPort, ip: bytes, mac: bytes) -> None:
    """The station with that address asks for ours, and is answered."""
    assert port.send(PLAIN + OWN + mac + ARP, [memoryview(arp(1, mac, ip, bytes(6), OUR_IP))])
    assert receive(port)[12:18] == mac


def goes_to(port: TunPort, device: Socket, packet: bytes) -> bytes:
    device.write(PLAIN + packet)
    got = receive(port, ROOM)
    assert got[26:] == packet
    return got[12:18]


async def test_packets_with_one_header_go_to_several_stations_in_turn(device: Socket) -> None:
    port = await tun(device)
    says(port, PEER_IP, PEER)
    says(port, THIRD_IP, OTHER)
    for _ in range(3):
        assert [goes_to(port, device, packet) for packet in (TO_PEER, TO_THIRD, FAR)] == [PEER, OTHER, PEER]


async def test_a_station_that_tells_another_mac_gets_the_next_packet_there(device: Socket) -> None:
    port = await tun(device)
    for mac in (PEER, OTHER, PEER):
        says(port, PEER_IP, mac)
        assert goes_to(port, device, TO_PEER) == mac


async def test_a_packet_for_an_address_that_went_is_sent_beyond_our_networks(device: Socket) -> None:
    port = await tun(device)
    says(port, PEER_IP, PEER)
    device.write(PLAIN + TO_THIRD)
    assert receive(port)[24:26] == ARP
    port.interface_changed(InterfaceState("vnet0"))
    assert goes_to(port, device, ipv4("198.18.0.4")) == PEER
    assert port.send(PLAIN + OWN + OTHER + ARP, [memoryview(arp(1, OTHER, THIRD_IP, bytes(6), OUR_IP))])
    assert receive(port) == PLAIN + OTHER + OWN + IPV4 + TO_THIRD, "what was held"
    assert receive(port) == b"", "no answer"


async def test_a_silent_station_is_probed_again_while_it_still_gets_packets(
    device: Socket, autojump_clock: trio.testing.MockClock
) -> None:
    port = await tun(device)
    says(port, PEER_IP, PEER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.keep_aging)
        await trio.sleep(AGE_SECONDS * 1.5)
        assert goes_to(port, device, TO_PEER) == PEER
        question = receive(port)
        assert (question[12:18], question[24:26]) == (PEER, ARP)
        assert port.send(PLAIN + OWN + PEER + ARP, [memoryview(arp(2, PEER, PEER_IP, OWN, OUR_IP))])
        await trio.sleep(AGE_SECONDS)
        assert goes_to(port, device, TO_PEER) == PEER
        assert receive(port)[24:26] == ARP
        for _ in range(3):
            await port.wait_readable()
            receive(port)
        device.write(PLAIN + TO_PEER)
        assert receive(port)[12:18] == b"\xff" * 6, "it is unknown again"
        nursery.cancel_scope.cancel()


async def test_frames_of_a_known_head_tell_of_their_sender_again_after_a_while(device: Socket) -> None:
    port = await tun(device)
    assert port.send(frame(), [memoryview(b"\x45" + bytes(11) + THIRD_IP + OUR_IP)])
    for _ in range(2):
        port.age()
        for _ in range(2):
            assert port.send(frame(), [memoryview(b"\x45" + bytes(11) + THIRD_IP + OUR_IP)])
            device.read()
    assert goes_to(port, device, TO_THIRD) == PEER
    assert not port._neighbour.busy


async def test_all_queues_know_the_same_stations_and_the_first_one_asks(device: Socket) -> None:
    other = Socket()
    try:
        port = await tun(device)
        second = await tun(other, port)
        port.set_queues(2)
        await port.start(mac=OWN, offloads=ALL, mtu=None)
        says(port, PEER_IP, PEER)
        assert goes_to(second, other, TO_PEER) == PEER
        other.write(PLAIN + TO_THIRD)
        assert second.recv_into(room(ROOM)) == 0
        assert receive(port)[24:26] == ARP
        assert second.send(frame(ARP), [memoryview(arp(2, OTHER, THIRD_IP, OWN, OUR_IP))])
        assert receive(port)[12:26] == OTHER + OWN + IPV4
        assert goes_to(second, other, TO_THIRD) == OTHER
        assert port.statistics().drops == {}
    finally:
        other.close()
