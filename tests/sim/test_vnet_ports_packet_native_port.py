"""Native ports: the descriptor and caches that a shuttle borrows, and the figures and frames that it gives back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import pytest

from drivers.contracts.ports import NO_FRAME, NO_OFFLOADS, NOT_PLAIN
from drivers.devices.net.flow import Figures
from rings.memory import Addr
from support.native import NEEDS_NATIVE
from support.rigs.tun import IPV4, OWN, PEER, PLAIN, Socket, ipv4, receive, tap, tun
from vnet.ports.packet.native.port import NativePort
from vnet.ports.packet.tap import TapPort
from vnet.ports.packet.tun import TunPort

MAKE = pytest.mark.parametrize("make", [tun, tap])
Make = Callable[[Socket], Awaitable[TunPort | TapPort]]

SIZE = 1 << 17
"""Bytes of a buffer that any frame fits."""


@attrs.frozen
class Slots:
    """Two buffers of a driver."""

    block: memoryview
    addrs: Sequence[Addr] = attrs.field(factory=lambda: [Addr(0), Addr(SIZE)])
    size: int = SIZE


def read(port: NativePort) -> tuple[list[tuple[Addr, int, int]], int, int]:
    return port.recv_slots(Slots(memoryview(bytearray(2 * SIZE))), [0, 1], 2, 1 << 20)


@NEEDS_NATIVE
@MAKE
async def test_a_live_port_lends_its_descriptor_and_its_known_frames(device: Socket, make: Make) -> None:
    port = await make(device)
    device.write(PLAIN + (ipv4() if make is tun else PEER + OWN + IPV4 + ipv4()))
    receive(port)
    reader, writer = port.lend_reader(), port.lend_writer()
    assert reader is not None
    assert writer is not None
    fd, fronts, front_size, limit = reader
    assert (fd, writer[0]) == (device.fileno(), device.fileno())
    assert [len(front) for front in fronts.values()] == [front_size]
    assert front_size == port.FRONT <= limit


@NEEDS_NATIVE
@MAKE
async def test_a_port_that_does_not_run_lends_nothing(device: Socket, make: Make) -> None:
    port = await make(device)
    port.stop()
    assert port.lend_reader() is None
    assert read(port) == ([], 0, NOT_PLAIN)
    port.close()
    assert port.lend_writer() is None


@MAKE
async def test_a_port_lends_nothing_if_python_has_to_see_its_frames(
    device: Socket, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed, pure = await make(device), await make(device)
    recv_slots = observed.recv_slots

    def seen(*args: Any) -> Any:
        return recv_slots(*args)

    monkeypatch.setattr(observed, "recv_slots", seen)
    pure.native = False
    for port in (observed, pure):
        assert port.lend_reader() is None
        assert port.lend_writer() is None


@NEEDS_NATIVE
@MAKE
async def test_frames_that_a_shuttle_carried_count_as_the_ports_own(device: Socket, make: Make) -> None:
    port = await make(device)
    port.take_back(Figures(3, 300), 0)
    port.sent(Figures(2, 100))
    statistics = port.statistics()
    assert (statistics.rx_packets, statistics.rx_bytes) == (3, 300)
    assert (statistics.tx_packets, statistics.tx_bytes) == (2, 100)


@NEEDS_NATIVE
@MAKE
async def test_a_frame_that_a_shuttle_left_is_handed_up_once_before_it_reads_again(device: Socket, make: Make) -> None:
    port = await make(device)
    port.take_back(Figures(0, 0), 77)
    assert port.lend_reader() is None
    assert port.lend_writer() is not None
    assert read(port) == ([], 0, 77)
    assert read(port) == ([], 0, NO_FRAME)
    assert port.lend_reader() is not None


def leave_frame(port: TunPort | TapPort, make: Make) -> tuple[Slots, memoryview, int]:
    """Let a shuttle leave a frame in the next free buffer; return both buffers, that one, and the bytes read."""
    slots = Slots(memoryview(bytearray(2 * SIZE)))
    buffer = slots.block[SIZE:]
    left = PLAIN + (ipv4() if make is tun else PEER + OWN + IPV4 + ipv4())
    at = port.FRONT - len(PLAIN)
    buffer[at : at + len(left)] = left
    port.take_back(Figures(0, 0), len(left))
    return slots, buffer, len(left)


@NEEDS_NATIVE
@MAKE
async def test_a_frame_that_a_shuttle_left_comes_before_the_ports_own(device: Socket, make: Make) -> None:
    """Own frames, such as an answer to an ARP request of this moment, have no place in its buffer."""
    port = await make(device)
    slots, buffer, left = leave_frame(port, make)
    await port.announce()
    assert port.recv_slots(slots, [0, 1], 2, 1 << 20) == ([], 0, left)
    length = port.judge_read(left, [buffer])
    assert bytes(buffer[length - len(ipv4()) : length]) == ipv4()
    assert port.recv_slots(slots, [0, 1], 2, 1 << 20) == ([], 0, NOT_PLAIN)
    assert ipv4() not in receive(port)


@MAKE
async def test_python_takes_the_frame_that_a_shuttle_left(device: Socket, make: Make) -> None:
    port = await make(device)
    _, buffer, _ = leave_frame(port, make)
    assert port.pending()
    length = port.recv_into([buffer])
    assert bytes(buffer[length - len(ipv4()) : length]) == ipv4()
    assert not port.pending()


@NEEDS_NATIVE
@MAKE
async def test_a_port_that_stops_drops_the_frame_that_a_shuttle_left(device: Socket, make: Make) -> None:
    port = await make(device)
    leave_frame(port, make)
    port.stop()
    assert port.statistics().drops == {"stopped": 1}
    await port.start(mac=OWN, offloads=NO_OFFLOADS, mtu=None)
    assert read(port) == ([], 0, NO_FRAME)
