"""The sink of a capture: makes pcapng of the events that are selected, until their reader takes it.

Each port has an interface of link type Ethernet for its frames; each queue, link and device has one of link type
"Wireshark upper PDU" for its events. An interface starts with its first event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import attrs

from drivers.contracts.events import Event, FrameEvent, FrameWriter, Source, Topic
from drivers.contracts.ports import HEADER_SIZE
from rings.chain import copy_out
from vnet.capture.filters import Filter, matcher, may_match
from vnet.capture.frames import FrameOptions, port_description, port_name
from vnet.capture.payload import LAYOUTS, emit_start
from vnet.capture.pcapng import EPB_DROPCOUNT, interface_block, option, packet_block, section_block, statistics_block
from vnet.version import __version__

__all__ = ["BUFFER", "ETHERNET", "SNAP_LENGTH", "UPPER_PDU", "Recorder", "Selection"]

BUFFER = 8 << 20
"""Bytes that may wait for the reader; further events are lost."""
SNAP_LENGTH = 256
"""Default number of bytes of a frame that are captured."""
ROUTES = 4096
"""Places of events that are remembered."""
ETHERNET, UPPER_PDU = 1, 252
"""Link types (LINKTYPE_ETHERNET, LINKTYPE_WIRESHARK_UPPER_PDU)."""


@attrs.frozen
class Selection:
    """Which events a capture has."""

    topics: Collection[Topic] = tuple(Topic)
    places: Collection[str] = ()
    """Names of devices and links; a link stands also for the devices on it. Empty: all."""
    filters: Collection[Filter] = ()
    """Conditions that all must hold."""
    snap_length: int = SNAP_LENGTH

    def covers(self, kind: type[Event], source: Source) -> bool:
        """Return whether events of this kind and place are selected, if their own fields meet the conditions."""
        at_place = not self.places or source.device in self.places or source.link in self.places
        return at_place and may_match(kind, source, self.filters)


@attrs.define(eq=False)
class _Interface:
    number: int
    received: int = 0
    """Events that were selected, the lost ones included."""
    dropped: int = 0
    new_drops: int = 0
    """Events that were lost since the last one that was recorded."""


@attrs.frozen
class _Route:
    """The function that records the events of one kind and place."""

    source: Source
    """The place. It stays alive with the route, so that its address is a key."""
    record: Callable[[Event], None] | None
    """None if they are not selected."""


class Recorder:
    """A sink of events. It never waits: if the reader is slow, events are lost and counted."""

    def __init__(self, system: str, selection: Selection, epoch: int, wake: Callable[[], object]) -> None:
        """``epoch`` is the time of the run's clock at 0 s, in nanoseconds since 1970.

        ``wake`` is called when bytes wait and none did before.
        """
        self._selection = selection
        self._epoch = epoch
        self._wake = wake
        self._interfaces: dict[tuple[int, str], _Interface] = {}
        self._routes: dict[tuple[type[Event], int], _Route] = {}
        self._buffer = bytearray(section_block(f"vnet system {system}", f"vnet {__version__}"))

    def take(self) -> bytearray:
        """Return the bytes that wait."""
        taken, self._buffer = self._buffer, bytearray()
        return taken

    def finish(self, time: float) -> bytearray:
        """Return the bytes that wait, and the statistics of each interface; ``time`` is that of the run's clock."""
        now = self._epoch + int(time * 1e9)
        for each in self._interfaces.values():
            self._buffer += statistics_block(each.number, now, each.received, each.dropped)
        return self.take()

    def __call__(self, event: Event) -> None:
        """Record an event."""
        kind = event.__class__
        route = self._routes.get((kind, id(event.source))) or self._add_route(kind, event.source)
        if route.record is not None:
            route.record(event)

    def frame_writer(self, kind: type[FrameEvent], source: Source) -> FrameWriter | None:
        """See `drivers.contracts.events.FrameSink`."""
        filters, limit = self._selection.filters, self._selection.snap_length
        if not self._selection.covers(kind, source):
            return None
        interface = self._interface(ETHERNET, limit, port_name(source), port_description(source))
        options, matches = FrameOptions(kind, source.queue), matcher(kind, filters)

        def write(time: float, frame: int, chain: int | None, size: int, segs: Sequence[memoryview]) -> None:
            if matches is not None and not matches(kind(time, source, frame, chain, b"", size, ())):
                return
            if self._has_room(interface):
                data = copy_out(segs, HEADER_SIZE + min(size, limit))
                self._add(interface, time, data[HEADER_SIZE:], size, options.emit(frame, chain, data[:HEADER_SIZE]))

        return write

    def _has_room(self, interface: _Interface) -> bool:
        """Return whether an event can be recorded; if not, it is lost."""
        interface.received += 1
        if len(self._buffer) <= BUFFER:
            return True
        interface.dropped += 1
        interface.new_drops += 1
        return False

    def _add(self, interface: _Interface, time: float, data: bytes, size: int, options: bytes) -> None:
        if interface.new_drops:
            options += option(EPB_DROPCOUNT, interface.new_drops.to_bytes(8, "little"))
            interface.new_drops = 0
        if not self._buffer:
            self._wake()
        self._buffer += packet_block(interface.number, self._epoch + int(time * 1e9), data, size, options)

    def _add_route(self, kind: type[Event], source: Source) -> _Route:
        if len(self._routes) >= ROUTES:
            self._routes.clear()
        record = self._record_frames(kind, source) if issubclass(kind, FrameEvent) else self._record(kind, source)
        route = self._routes[kind, id(source)] = _Route(source, record)
        return route

    def _record_frames(self, kind: type[FrameEvent], source: Source) -> Callable[[Event], None] | None:
        write = self.frame_writer(kind, source)
        if write is None:
            return None

        def record(event: Event) -> None:
            assert isinstance(event, FrameEvent)
            write(event.time, event.frame, event.chain, event.size, (memoryview(event.header), *event.pieces))

        return record

    def _record(self, kind: type[Event], source: Source) -> Callable[[Event], None] | None:
        """Return the function that records events of a kind and place; None if they are not selected."""
        if not self._selection.covers(kind, source):
            return None
        interface = self._interface(UPPER_PDU, 0, *_place(kind.topic, source))
        start, emit, matches = emit_start(kind, source), LAYOUTS[kind].emit, matcher(kind, self._selection.filters)

        def record(event: Event) -> None:
            if (matches is None or matches(event)) and self._has_room(interface):
                data = start + emit(event)
                self._add(interface, event.time, data, len(data), b"")

        return record

    def _interface(self, link_type: int, snap_length: int, name: str, description: str) -> _Interface:
        if (link_type, name) not in self._interfaces:
            self._interfaces[link_type, name] = _Interface(len(self._interfaces))
            if not self._buffer:
                self._wake()
            self._buffer += interface_block(link_type, snap_length, name, description)
        return self._interfaces[link_type, name]


def _place(topic: Topic, source: Source) -> tuple[str, str]:
    """Return name and description of the interface for events: that of their link, queue, device, or host."""
    link, host = (source.link, f"link {source.link}"), (source.host, f"host {source.host}")
    if topic in {Topic.LINKS, Topic.TLPS, Topic.REGISTERS} and source.link:
        return link
    if source.device:
        queue = f"queue {source.queue} of " if source.queue else ""
        side = f", the {source.side}'s side" if source.side else ""
        name = ".".join(filter(None, (source.device, source.side, source.queue)))
        return name, f"{queue}{source.device}{side}, on host {source.host}"
    return next((place for place in (link, host) if place[0]), ("vnet", "system"))
