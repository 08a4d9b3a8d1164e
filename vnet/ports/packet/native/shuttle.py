"""A shuttle: one direction of a queue pair of a network device, in C from port to port (`_shuttles.c`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from drivers.devices.net.device.flows import VhostNetFromDriver, VhostNetToDriver
from drivers.devices.net.driver.flows import CARRIED, CARRIED_BYTES, VirtioNetReceive, VirtioNetTransmit
from drivers.devices.net.flow import Figures
from rings.native import NATIVE
from vnet.ports.packet.native.port import NativePort, Reader, Writer

if TYPE_CHECKING or NATIVE:
    from vnet.ports.packet.native import _shuttles

__all__ = ["Shuttle", "Returned"]

WRITER = 3
"""Reason of a shuttle to stop: the flow that writes has to go on."""


@attrs.frozen
class Returned:
    """The work of a shuttle since it got the state of its flows."""

    frames: int
    """Frames that crossed the shuttle."""
    stopped: bool
    """Whether it met something that is not plain."""
    writer: bool
    """Whether the flow that writes has to go on, as if it was notified."""
    kicks: int
    """Notifications of the device, which were due."""
    calls: int
    """Notifications of the driver, which were due."""


class Shuttle:
    """Lends C the state of two flows that wait, and takes it back before other Python code runs."""

    def __init__(self, offer: Callable[[], object]) -> None:
        """When a frame arrives, C calls ``offer``, which may call one of the two `lend` methods."""
        self._offer = offer  # kept here: what C keeps is no part of garbage collection
        self.handle = _shuttles.new_shuttle(offer)
        self._outward: tuple[VirtioNetTransmit, VhostNetFromDriver] | None = None
        self._inward: tuple[VhostNetToDriver, VirtioNetReceive] | None = None

    @property
    def lent(self) -> bool:
        """Whether C has the state."""
        return self._outward is not None or self._inward is not None

    def lend_to_device(self, reader: VirtioNetTransmit, writer: VhostNetFromDriver) -> None:
        """Lend the state of the flows towards the device, if both sides of the ring are idle and plain."""
        given = reader.lend()
        taken = None if given is None else writer.lend()
        ports = self._ports(reader.port, writer.port)
        if given is None or taken is None or ports is None:
            return
        (views, (added, last_used), head, tokens), slots, slot = given
        far, places, (base, region) = taken
        (fd, fronts, front_size, limit), (out, heads) = ports
        _shuttles.lend(
            self.handle, True, fd, out, fronts, front_size, None, limit, writer.rules.known, heads, None, False, *views,
            *far, len(tokens), added, last_used, *places, slots.block, slots.addrs[0], region, base, slots.size,
            slots.pitch, head, slot, tokens, 0.0, 0, 0, 0,
        )  # fmt: skip
        self._outward = reader, writer

    def lend_to_driver(self, reader: VhostNetToDriver, writer: VirtioNetReceive) -> None:
        """Lend the state of the flows towards the driver, if both sides of the ring are idle and plain."""
        given = writer.lend()
        taken = None if given is None else reader.lend()
        ports = self._ports(reader.port, writer.port)
        if given is None or taken is None or ports is None:
            return
        (views, (added, last_used), _, tokens), slots, usual, posted = given
        far, places, (base, region) = taken
        (fd, fronts, front_size, limit), (out, heads) = ports
        verdicts = None if reader.filter is None else reader.filter.known
        _shuttles.lend(
            self.handle, False, fd, out, fronts, front_size, verdicts, limit, writer.rules.known, heads,
            writer.rules.data_valid, writer.mergeable, *views, *far, len(tokens), added, last_used, *places,
            slots.block, slots.addrs[0], region, base, slots.size, slots.pitch, 0, 0, tokens, usual, posted,
            CARRIED_BYTES, CARRIED,
        )  # fmt: skip
        self._inward = reader, writer

    def _ports(self, source: object, sink: object) -> tuple[Reader, Writer] | None:
        if not isinstance(source, NativePort) or not isinstance(sink, NativePort):
            return None
        reader, writer = source.lend_reader(), sink.lend_writer()
        return None if reader is None or writer is None else (reader, writer)

    def take_back(self) -> Returned:
        """Take the state back; it must be lent."""
        result = _shuttles.take_back(self.handle)
        assert result is not None
        stopped, left, count_in, bytes_in, count_out, bytes_out, first, second, in_flight = result[:9]
        added, last_used, last_avail, avail_end, used, usual, taken = result[9:]
        received, sent = Figures(count_in, bytes_in), Figures(count_out, bytes_out)
        places = last_avail, avail_end, used
        if self._outward is not None:
            reader, writer = self._outward
            reader.take_over(added, last_used, received, first, bool(in_flight))
            writer.take_back(places, taken, sent, second)
            source, sink, self._outward = reader.port, writer.port, None
            kicks, calls = first, second
        else:
            assert self._inward is not None
            inward, outward = self._inward
            inward.take_back(places, taken, received, first)
            outward.take_over(added, last_used, sent, second, usual)
            source, sink, self._inward = inward.port, outward.port, None
            kicks, calls = second, first
        assert isinstance(source, NativePort)
        assert isinstance(sink, NativePort)
        source.take_back(received, left)
        sink.sent(sent)
        return Returned(count_out, bool(stopped), stopped == WRITER, kicks, calls)
