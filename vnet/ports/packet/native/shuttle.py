"""A shuttle: one direction of a queue pair of a network device, in C from port to port (`_shuttles.c`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import attrs

from drivers.contracts.ports import KnownHeads
from drivers.devices.net.device.flows import VhostNetFromDriver, VhostNetToDriver
from drivers.devices.net.driver.flows import Lent, VirtioNetReceive, VirtioNetTransmit
from drivers.devices.net.flow import Figures, NetFlow
from rings.native import NATIVE
from vnet.ports.packet.native.port import NativePort, Reader, Writer

if TYPE_CHECKING or NATIVE:
    from rings.split.native import DeviceState
    from vnet.ports.packet.native import _shuttles

__all__ = ["Shuttle", "Returned"]

STARVED, READER, WRITER = 2, 3, 4
"""Reasons of a shuttle to stop: the other process has all buffers; the flow that reads frames, or the one that writes
them, has to go on.
"""
NOTHING = bytearray()
"""In place of memory of a side that is in another process."""
NO_READER: Reader = -1, {}, 0, 0.0
NO_WRITER: Writer = -1, None
NO_SLOTS: Any = NOTHING, 0, 0, 0
NO_DRIVER: Any = (NOTHING,) * 3, (0, 0), (0, [], [])
NO_DEVICE: Any = (NOTHING,) * 3, (0, 0, 0), (0, NOTHING)


@attrs.frozen
class Rules:
    """The rules for heads of frames that a shuttle writes; see `NativePort.send_each`."""

    known: KnownHeads
    exceptions: AbstractSet[bytes] | None = None
    single: bool = False


@attrs.frozen
class Returned:
    """The work of a shuttle since it got the state of its flows."""

    frames: int
    """Frames that crossed the shuttle."""
    stopped: bool
    """Whether it met something that is not plain."""
    writer: bool
    """Whether the flow that writes has to go on, as if it was notified."""
    starved: bool
    """Whether the flow that reads has to go on, as if frames were there: the other process had all buffers."""
    kicks: int
    """Notifications of the device, which were due."""
    calls: int
    """Notifications of the driver, which were due."""


class Shuttle:
    """Lends C the state of one or both flows of a direction, and takes it back before other Python code runs.

    Both wait. A flow that is None is in another process, which C notifies through the eventfd ``doorbell``.
    """

    def __init__(self, offer: Callable[[], object]) -> None:
        """When there are frames, C calls ``offer``, which may call one of the two `lend` methods."""
        self._offer = offer  # kept here: what C keeps is no part of garbage collection
        self.handle = _shuttles.new_shuttle(offer)
        self._outward: tuple[VirtioNetTransmit | None, VhostNetFromDriver | None] | None = None
        self._inward: tuple[VhostNetToDriver | None, VirtioNetReceive | None] | None = None

    @property
    def lent(self) -> bool:
        """Whether C has the state."""
        return self._outward is not None or self._inward is not None

    def lend_to_device(
        self, reader: VirtioNetTransmit | None, writer: VhostNetFromDriver | None, doorbell: int = -1
    ) -> None:
        """Lend the state of the flows towards the device, if their sides of the ring are idle and plain."""
        near = None if reader is None else reader.lend(writer is None)
        far = None if writer is None else writer.lend()
        rules = None if writer is None else Rules(writer.rules.known)
        if self._lend(True, (reader, writer), (near, far), doorbell, None, rules):
            self._outward = reader, writer

    def lend_to_driver(
        self, reader: VhostNetToDriver | None, writer: VirtioNetReceive | None, doorbell: int = -1
    ) -> None:
        """Lend the state of the flows towards the driver, if their sides of the ring are idle and plain."""
        near = None if writer is None else writer.lend(reader is None)
        far = None if reader is None else reader.lend()
        verdicts = None if reader is None or reader.filter is None else reader.filter.known
        rules = None if writer is None else Rules(writer.rules.known, writer.rules.data_valid, writer.mergeable)
        if self._lend(False, (reader, writer), (near, far), doorbell, verdicts, rules):
            self._inward = reader, writer

    def _lend(
        self,
        to_device: bool,
        flows: tuple[NetFlow[Any] | None, NetFlow[Any] | None],
        states: tuple[Lent | None, DeviceState | None],
        doorbell: int,
        verdicts: Mapping[bytes, str] | None,
        rules: Rules | None,
    ) -> bool:
        """Lend these states, if there is one for each flow and their ports can be lent. Returns whether it did."""
        reader, writer = flows
        near, far = states
        if (near is None) + (far is None) != (reader is None) + (writer is None):
            return False
        source = NO_READER if reader is None else _reader(reader.port)
        sink = NO_WRITER if writer is None else _writer(writer.port)
        if source is None or sink is None:
            return False
        fd, fronts, front_size, limit = source
        out, heads = sink
        judge = rules or Rules({})
        sides = (reader is not None) + 2 * (writer is not None)
        views, places, (head, tokens, following) = NO_DRIVER if near is None else near.ring
        far_views, far_places, (base, region) = NO_DEVICE if far is None else far
        num = max(len(views[0]), len(far_views[0])) // 2
        block, first, size, pitch = NO_SLOTS
        free, usual, posted = list[int](), 0.0, (0, 0, 0)
        if near is not None:
            slots, free, usual, posted = near.slots, near.free, near.usual, near.posted
            block, first, size, pitch = slots.block, slots.addrs[0], slots.size, slots.pitch
        _shuttles.lend(
            self.handle, to_device, sides, doorbell, fd, out, fronts, front_size, verdicts, limit, judge.known, heads,
            judge.exceptions, judge.single, *views, *far_views, num, *places, *far_places, block, first, region, base,
            size, pitch, head, tokens, following, free, usual, *posted,
        )  # fmt: skip
        return True

    def take_back(self) -> Returned:
        """Take the state back; it must be lent."""
        result = _shuttles.take_back(self.handle)
        assert result is not None
        stopped, left, count_in, bytes_in, count_out, bytes_out, first, second, returned = result[:9]
        added, last_used, last_avail, avail_end, used, usual, taken, head, tokens, following, free = result[9:]
        received, sent = Figures(count_in, bytes_in), Figures(count_out, bytes_out)
        near, far = (added, last_used), (last_avail, avail_end, used)
        reader: NetFlow[Any] | None
        writer: NetFlow[Any] | None
        if self._outward is not None:
            reader, writer = transmit, from_driver = self._outward
            self._outward = None
            if transmit is not None:
                transmit.take_over(near, returned, received, first, (head, tokens, following), free, left > 0, usual)
            if from_driver is not None:
                from_driver.take_back(far, taken, sent, second)
            kicks, calls = first, second
        else:
            assert self._inward is not None
            reader, writer = to_driver, receive = self._inward
            self._inward = None
            if to_driver is not None:
                to_driver.take_back(far, taken, received, first)
            if receive is not None:
                receive.take_over(near, sent, second, usual)
            kicks, calls = second, first
        if reader is not None:
            assert isinstance(reader.port, NativePort)
            reader.port.take_back(received, left)
        if writer is not None:
            assert isinstance(writer.port, NativePort)
            writer.port.sent(sent)
        frames, met = max(count_in, count_out), stopped in (READER, WRITER)
        return Returned(frames, met, stopped == WRITER, stopped == STARVED, kicks, calls)


def _reader(port: object) -> Reader | None:
    return port.lend_reader() if isinstance(port, NativePort) else None


def _writer(port: object) -> Writer | None:
    return port.lend_writer() if isinstance(port, NativePort) else None
