"""The sink of a capture: makes pcapng of the events that are selected, until their reader takes it.

Each port has an interface of link type Ethernet for its frames; each queue, link and device has one of link type
"Wireshark upper PDU" for its events. An interface starts with its first event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs

from drivers.contracts.events import Event, FrameEvent, Source, Topic
from vnet.capture.filters import Filter, matcher
from vnet.capture.frames import emit_options, port_description, port_name
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

    def covers(self, source: Source) -> bool:
        """Return whether events of this place are selected."""
        return not self.places or source.device in self.places or source.link in self.places


@attrs.define(eq=False)
class _Interface:
    number: int
    received: int = 0
    """Events that were selected, the lost ones included."""
    dropped: int = 0
    new_drops: int = 0
    """Events that were lost since the last one that was recorded."""


@attrs.define(eq=False)
class _Route:
    """Where and how events of one kind and place are recorded."""

    source: Source
    interface: _Interface | None
    """None if they are not selected."""
    start: bytes = b""
    emit: Callable[[Event], bytes] | None = None
    """Makes the rest of the payload; None for frames."""
    matches: Callable[[Event], bool] | None = None


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
        for each in self._interfaces.values():
            self._buffer += statistics_block(each.number, self._nanoseconds(time), each.received, each.dropped)
        return self.take()

    def __call__(self, event: Event) -> None:
        route = self._routes.get((event.__class__, id(event.source))) or self._add_route(event)
        interface = route.interface
        if interface is None or (route.matches is not None and not route.matches(event)):
            return
        interface.received += 1
        if len(self._buffer) > BUFFER:
            interface.dropped += 1
            interface.new_drops += 1
            return
        if route.emit is not None:
            data = route.start + route.emit(event)
            size, options = len(data), b""
        else:
            assert isinstance(event, FrameEvent)
            data, size, options = event.data(self._selection.snap_length), event.size, emit_options(event)
        if interface.new_drops:
            options += option(EPB_DROPCOUNT, interface.new_drops.to_bytes(8, "little"))
            interface.new_drops = 0
        if not self._buffer:
            self._wake()
        self._buffer += packet_block(interface.number, self._nanoseconds(event.time), data, size, options)

    def _nanoseconds(self, time: float) -> int:
        return self._epoch + int(time * 1e9)

    def _add_route(self, event: Event) -> _Route:
        if len(self._routes) >= ROUTES:
            self._routes.clear()
        route = self._routes[type(event), id(event.source)] = self._route(event)
        return route

    def _route(self, event: Event) -> _Route:
        """Return the route of an event. It keeps the source alive, whose address is its key."""
        source, kind = event.source, type(event)
        if not self._selection.covers(source):
            return _Route(source, None)
        matches = matcher(kind, self._selection.filters)
        if isinstance(event, FrameEvent):
            interface = self._interface(ETHERNET, port_name(source), port_description(source))
            return _Route(source, interface, matches=matches)
        interface = self._interface(UPPER_PDU, _name(kind.topic, source), _description(kind.topic, source))
        return _Route(source, interface, emit_start(kind, source), LAYOUTS[kind].emit, matches)

    def _interface(self, link_type: int, name: str, description: str) -> _Interface:
        if (link_type, name) not in self._interfaces:
            self._interfaces[link_type, name] = _Interface(len(self._interfaces))
            snap_length = self._selection.snap_length if link_type == ETHERNET else 0
            if not self._buffer:
                self._wake()
            self._buffer += interface_block(link_type, snap_length, name, description)
        return self._interfaces[link_type, name]


def _name(topic: Topic, source: Source) -> str:
    """Return the name of the interface for events: that of their link, queue, device, or host."""
    if topic in {Topic.LINKS, Topic.TLPS, Topic.REGISTERS} and source.link:
        return source.link
    parts = filter(None, (source.device, source.side, source.queue))
    return ".".join(parts) or source.link or source.host or "vnet"


def _description(topic: Topic, source: Source) -> str:
    if topic in {Topic.LINKS, Topic.TLPS, Topic.REGISTERS} and source.link:
        return f"link {source.link}"
    if not source.device:
        return next(
            (f"{kind} {name}" for kind, name in (("link", source.link), ("host", source.host)) if name), "system"
        )
    queue = f"queue {source.queue} of " if source.queue else ""
    side = f", the {source.side}'s side" if source.side else ""
    return f"{queue}{source.device}{side}, on host {source.host}"
