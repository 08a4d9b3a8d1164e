"""The in-memory port: frames go through unchanged, each direction is bounded, and everything is counted."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.contracts.ports import HEADER_SIZE, NO_OFFLOADS, Offloads, PacketPort
from drivers.errors import PortGone
from vnet.ports.packet.memory import MemoryPort

FRAME = bytes(range(64))
HEAD = bytes(HEADER_SIZE) + FRAME[:14]


async def started(port: MemoryPort, offloads: Offloads = NO_OFFLOADS) -> MemoryPort:
    await port.start(mac=bytes(6), offloads=offloads, mtu=1500)
    return port


def room(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


async def test_it_is_a_packet_port_and_shows_what_it_was_given() -> None:
    port = MemoryPort(Offloads(csum=True))
    packet_port: PacketPort = port
    assert packet_port.caps == Offloads(csum=True)
    await port.start(mac=b"\x02" + bytes(5), offloads=Offloads(csum=True), mtu=9000)
    await port.start(mac=None, offloads=NO_OFFLOADS, mtu=None)
    assert (port.mac, port.offloads, port.mtu) == (b"\x02" + bytes(5), NO_OFFLOADS, 9000)
    port.set_carrier(True)
    assert port.carrier
    port.stop()
    assert not port.carrier
    assert not port.live


@pytest.mark.parametrize("sizes", [(2000,), (76,), (12, 2000), (1,) * 76, (5, 0, 9, 100)])
async def test_an_injected_frame_is_laid_over_the_segments(sizes: tuple[int, ...]) -> None:
    port = await started(MemoryPort(), Offloads(csum=True, tso4=True))
    header = bytes([1, 1, 54, 0, 180, 5, 34, 0, 16, 0, 0, 0])
    assert port.inject(FRAME, header)
    segs = room(*sizes)
    assert port.pending()
    assert port.recv_into(segs) == 76
    assert not port.pending()
    assert b"".join(segs)[:76] == header + FRAME
    assert not any(b"".join(segs)[76:])
    assert port.recv_into(segs) == 0


async def test_flags_and_num_buffers_of_an_injected_header_are_not_handed_up() -> None:
    port = await started(MemoryPort(), Offloads(csum=True))
    port.inject(FRAME, bytes([0xFF, 0, *range(2, 10), 7, 7]))
    segs = room(100)
    port.recv_into(segs)
    assert bytes(segs[0][:12]) == bytes([1, 0, *range(2, 10), 0, 0])


async def test_a_frame_that_does_not_fit_is_dropped_and_the_next_one_is_tried() -> None:
    port = await started(MemoryPort())
    port.inject(FRAME)
    port.inject(FRAME[:20])
    segs = room(20, 55)
    assert port.recv_into(segs) == 32
    assert port.statistics().drops == {"too_long": 1}


async def test_a_sent_frame_is_received_as_header_and_frame() -> None:
    port = await started(MemoryPort())
    rest = [memoryview(FRAME[14:30]), memoryview(FRAME[30:])]
    assert port.send(HEAD, rest)
    assert port.receive_nowait() == (bytes(12), FRAME)
    with pytest.raises(trio.WouldBlock):
        port.receive_nowait()


async def test_a_full_queue_drops_what_is_injected_and_holds_back_what_is_sent() -> None:
    port = await started(MemoryPort(capacity=2))
    assert [port.inject(FRAME) for _ in range(3)] == [True, True, False]
    assert [port.send(HEAD, []) for _ in range(3)] == [True, True, False]
    stats = port.statistics()
    assert stats.drops == {"inject_full": 1}
    assert stats.tx_packets == 2


async def test_in_is_out_plus_dropped() -> None:
    port = await started(MemoryPort(capacity=3))
    segs = room(40)
    for size in (20, 64, 20, 20, 20):
        port.inject(FRAME[:size])
    while port.recv_into(segs):
        pass
    stats = port.statistics()
    assert (stats.rx_packets, stats.rx_bytes) == (2, 40)
    assert stats.drops == {"inject_full": 2, "too_long": 1}
    assert stats.rx_packets + sum(stats.drops.values()) == 5


async def test_nothing_is_handed_up_before_start_and_after_stop(autojump_clock: trio.testing.MockClock) -> None:
    port = MemoryPort()
    port.inject(FRAME)
    assert port.recv_into(room(100)) == 0
    with trio.move_on_after(10) as before:
        await port.wait_readable()
    await started(port)
    await port.wait_readable()
    port.stop()
    assert port.recv_into(room(100)) == 0
    with trio.move_on_after(10) as after:
        await port.wait_readable()
    assert before.cancelled_caught
    assert after.cancelled_caught


async def test_waiters_wake_when_there_is_something_to_do(autojump_clock: trio.testing.MockClock) -> None:
    port = await started(MemoryPort(capacity=1))
    done: list[str] = []

    async def read() -> None:
        await port.wait_readable()
        done.append("readable")

    async def write() -> None:
        port.send(HEAD, [])
        await port.wait_writable()
        done.append("writable")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["readable"]
        await port.receive()
    assert done == ["readable", "writable"]


async def test_receive_waits_for_a_frame(autojump_clock: trio.testing.MockClock) -> None:
    port = await started(MemoryPort())

    async def later() -> None:
        await trio.sleep(5)
        port.send(HEAD, [memoryview(FRAME[14:])])

    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert await port.receive() == (bytes(12), FRAME)
    assert trio.current_time() == before + 5


async def test_every_use_of_an_unplugged_port_says_that_it_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    port = await started(MemoryPort())

    async def wait() -> None:
        with pytest.raises(PortGone):
            await port.wait_readable()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        port.unplug()
    with pytest.raises(PortGone):
        port.recv_into(room(100))
    with pytest.raises(PortGone):
        port.send(HEAD, [])
    with pytest.raises(PortGone):
        await port.wait_writable()
    with pytest.raises(PortGone):
        await port.receive()
    port.stop()


@pytest.mark.parametrize(("frame", "header"), [(FRAME[:13], bytes(12)), (FRAME, bytes(10))])
async def test_half_a_header_is_a_mistake_of_the_program(frame: bytes, header: bytes) -> None:
    with pytest.raises(ValueError):
        MemoryPort().inject(frame, header)


async def test_a_header_that_asks_for_more_than_was_agreed_is_dropped() -> None:
    port = await started(MemoryPort())
    port.inject(FRAME, bytes([1, 0]) + bytes(10))
    port.inject(FRAME, bytes([0, 1]) + bytes(10))
    assert port.recv_into(room(100)) == 0
    assert port.statistics().drops == {"offload": 2}
    await port.start(mac=None, offloads=Offloads(csum=True), mtu=None)
    port.inject(FRAME, bytes([1, 0]) + bytes(10))
    port.inject(FRAME, bytes([1, 1]) + bytes(10))
    assert port.recv_into(room(100)) == 76
    assert port.recv_into(room(100)) == 0
    assert port.statistics().drops == {"offload": 3}
