"""A TUN port that does not know the MAC address of its peer, and TAP ports."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from drivers.errors import PortGone
from support.rigs.tun import (
    ALL,
    ARP,
    HEADER,
    IPV4,
    IPV6,
    OTHER,
    OUR_IP,
    OWN,
    PEER,
    PEER_IP,
    PLAIN,
    Socket,
    accounted,
    arp,
    frame,
    ipv4,
    ipv6,
    receive,
    room,
    tap,
    tun,
)

# A peer that is not known


async def test_the_first_packet_asks_and_follows_when_the_answer_came(device: Socket) -> None:
    port = await tun(device, peer=None)
    device.write(HEADER.pack(1, 0, 0, 0, 20, 6, 0) + ipv4(payload=bytes(2000)))
    question = PLAIN + b"\xff" * 6 + OWN + ARP + arp(1, OWN, OUR_IP, bytes(6), PEER_IP)
    assert receive(port, 20, 70000) == question
    assert receive(port) == b""
    assert port.send(frame(ARP), [memoryview(arp(2, PEER, PEER_IP, OWN, OUR_IP) + bytes(18))])
    held = HEADER.pack(1, 0, 0, 0, 34, 6, 0) + PEER + OWN + IPV4 + ipv4(payload=bytes(2000))
    assert receive(port) == held
    device.write(PLAIN + ipv4())
    assert receive(port) == PLAIN + PEER + OWN + IPV4 + ipv4()
    stats = port.statistics()
    assert (stats.rx_packets, stats.tx_packets, stats.drops) == (3, 1, {})
    with pytest.raises(BlockingIOError):
        device.read()


async def test_any_frame_teaches_the_peer(device: Socket) -> None:
    port = await tun(device, peer=None)
    assert port.send(frame(), [memoryview(ipv4())])
    device.write(PLAIN + ipv6())
    assert receive(port) == PLAIN + PEER + OWN + IPV6 + ipv6()


async def test_a_waiting_reader_wakes_for_an_answer_of_the_ports_own(
    device: Socket, autojump_clock: trio.testing.MockClock
) -> None:
    port = await tun(device)
    got: list[bytes] = []

    async def read() -> None:
        await port.wait_readable()
        got.append(receive(port))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        assert port.send(frame(ARP, b"\xff" * 6), [memoryview(arp(1, PEER, PEER_IP, bytes(6), OUR_IP))])
    assert got == [PLAIN + PEER + OWN + ARP + arp(2, OWN, OUR_IP, PEER, PEER_IP)]
    assert port.statistics().tx_packets == 1


async def test_a_waiting_reader_wakes_to_ask_again_and_to_give_up(
    device: Socket, autojump_clock: trio.testing.MockClock
) -> None:
    port = await tun(device, peer=None)
    start = trio.current_time()
    for _ in range(5):
        device.write(PLAIN + ipv4())
    times = []
    with trio.move_on_after(60):
        while True:
            while receive(port):
                times.append(trio.current_time() - start)
            await port.wait_readable()
    assert times == pytest.approx([0, 1, 2])
    assert port.statistics().drops == {"no_neighbour": 5}
    assert accounted(port) == 5 + 3


async def test_a_stopped_port_hands_up_nothing_and_lets_its_reader_sleep(
    device: Socket, autojump_clock: trio.testing.MockClock
) -> None:
    port = await tun(device)
    port.stop()
    device.write(PLAIN + ipv4())
    assert receive(port) == b""
    with trio.move_on_after(5) as scope:
        await port.wait_readable()
    assert scope.cancelled_caught
    await port.start(mac=None, offloads=ALL, mtu=None)
    assert receive(port) == b""
    assert port.statistics().drops == {"stale": 1}
    device.write(PLAIN + ipv4())
    await port.wait_readable()
    assert receive(port)


async def test_a_stopped_port_forgets_a_peer_it_had_learnt(device: Socket) -> None:
    port = await tun(device, peer=None)
    port.send(frame(), [memoryview(ipv4())])
    port.stop()
    await port.start(mac=OTHER, offloads=ALL, mtu=None)
    device.write(PLAIN + ipv4())
    assert receive(port)[12:26] == b"\xff" * 6 + OTHER + ARP
    assert port.send(frame(to=OWN), [memoryview(ipv4())])
    assert port.statistics().drops == {"not_for_us": 1}


async def test_closing_wakes_waiters_and_ends_every_use(device: Socket, autojump_clock: trio.testing.MockClock) -> None:
    port = await tun(device)

    async def read() -> None:
        await port.wait_readable()
        with pytest.raises(PortGone):
            port.recv_into(room(2000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        port.close()
    port.close()
    with pytest.raises(PortGone):
        port.send(frame(), [memoryview(ipv4())])
    with pytest.raises(PortGone):
        await port.wait_readable()
    with pytest.raises(PortGone):
        await port.wait_writable()
    with pytest.raises(PortGone):
        await port.start(mac=None, offloads=ALL, mtu=None)


# TAP


@pytest.mark.parametrize("sizes", [(70000,), (12, 70000), (5, 21, 3, 0, 50, 70000)])
async def test_a_tap_passes_frames_and_headers_through(device: Socket, sizes: tuple[int, ...]) -> None:
    port = await tap(device)
    for payload in (b"", bytes(46), os.urandom(9000)):
        whole = frame(b"\x81\x00", OTHER, HEADER.pack(1, 1, 54, 1448, 34, 16, 0)) + payload
        device.write(whole)
        assert receive(port, *sizes) == whole
        assert port.send(whole[:26], [memoryview(payload)])
        assert device.read() == whole
    stats = port.statistics()
    assert (stats.rx_packets, stats.tx_packets, stats.drops) == (3, 3, {})
    assert stats.rx_bytes == stats.tx_bytes == 3 * 14 + 46 + 9000


async def test_a_frame_too_long_for_its_buffer_is_dropped_by_a_tap_too(device: Socket) -> None:
    port = await tap(device)
    device.write(frame() + bytes(100))
    device.write(frame() + bytes(99))
    assert receive(port, 125) == frame() + bytes(99)
    assert port.statistics().drops == {"too_long": 1}
