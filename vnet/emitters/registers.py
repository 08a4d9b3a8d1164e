"""Emitters of links and of regions of platform buses: register accesses, requests, interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import attrs
import trio

from drivers.contracts.events import ConfigAccessed, Events, InterruptSent, RegisterAccessed, Source, TlpSent
from rings.observers.overlay import Overlay
from vnet.host.platform import PlatformRegion
from vnet.link.base import Direction, Link

__all__ = ["LinkPlaces", "Published", "RegisterPlace", "VectorPlace", "watch_link", "watch_region"]

CONFIG_NAMES = {
    0x00: "vendor_id",
    0x02: "device_id",
    0x04: "command",
    0x06: "status",
    0x08: "revision",
    0x0E: "header_type",
    0x2C: "subsystem_vendor_id",
    0x2E: "subsystem_id",
    0x34: "capabilities",
    0x3C: "interrupt_line",
    0x3D: "interrupt_pin",
    **{0x10 + 4 * bar: f"bar{bar}" for bar in range(6)},
}
"""Registers of the header of a configuration space, by offset."""


@attrs.frozen
class RegisterPlace:
    """A register of a device."""

    source: Source
    """The accessing side, with the queue of a doorbell."""
    function: int
    bar: int
    offset: int
    register: str
    doorbell: bool


@attrs.frozen
class VectorPlace:
    """An interrupt vector of a function."""

    source: Source
    """The function's device, with the queue of the vector if it has a single one."""
    vector: int


class LinkPlaces(Protocol):
    """The owners of a link's addresses, functions and vectors."""

    def register(self, addr: int, value: int) -> RegisterPlace | None:
        """Return the register at an address, with a value that is written or was read; None if no function has it."""

    def vector(self, function: int, addr: int, data: int) -> VectorPlace | None:
        """Return the vector of a function that sends this message; None for any other write of it."""

    def root(self, function: int) -> Source:
        """Return the source of the root complex's accesses to a function."""

    def endpoint(self, function: int) -> Source:
        """Return the source of a function's own requests."""


Published = Callable[[str, Source], int | None]
"""Returns `published` of the last kick or call of a source's queue; None if that is unknown."""


class _WatchedLink:
    """Requests of a link that emit events."""

    def __init__(
        self,
        link: Link,
        events: Events,
        places: LinkPlaces,
        published: Published,
        numbers: Iterator[int],
    ) -> None:
        self._events = events
        self._places = places
        self._published = published
        self._numbers = numbers
        self._config_read, self._config_write = link.config_read, link.config_write
        self._mem_read, self._mem_write, self._intx = link.mem_read, link.mem_write, link.intx

    # Configuration space

    def config_read(self, function: int, offset: int, size: int) -> int:
        value = self._config_read(function, offset, size)
        self._tell_config(False, function, offset, size, value)
        return value

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        self._tell_config(True, function, offset, size, value)
        self._config_write(function, offset, size, value)

    def _tell_config(self, write: bool, function: int, offset: int, size: int, value: int) -> None:
        request, now, source = next(self._numbers), trio.current_time(), self._places.root(function)
        if (emit := self._events.tlps) is not None:
            kind: Literal["CfgWr", "CfgRd"] = "CfgWr" if write else "CfgRd"
            emit(TlpSent(now, source, request, kind, False, True, function, offset, None, None, size, int(value)))
        if (emit := self._events.registers) is not None:
            name = CONFIG_NAMES.get(offset, f"config+{offset:#x}")
            emit(ConfigAccessed(now, source, write, name, function, offset, size, int(value), request))

    # Memory

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        value = self._mem_read(direction, addr, size, function)
        self._tell_mem(False, direction, addr, size, value, function)
        return value

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        self._tell_mem(True, direction, addr, size, value, function)
        self._mem_write(direction, addr, size, value, function)

    def _tell_mem(self, write: bool, direction: Direction, addr: int, size: int, value: int, function: int) -> None:
        request, now = next(self._numbers), trio.current_time()
        downstream = direction is Direction.DOWNSTREAM
        place = self._places.register(addr, value) if downstream else None
        if place is not None:
            function = place.function
        if (emit := self._events.tlps) is not None:
            sent = self._places.vector(function, addr, value) if write and not downstream else None
            if downstream:
                source = self._places.root(function) if place is None else place.source
            else:
                source = self._places.endpoint(function) if sent is None else sent.source
            kind: Literal["MWr", "MRd"] = "MWr" if write else "MRd"
            bar, offset = (None, None) if place is None else (place.bar, place.offset)
            emit(TlpSent(now, source, request, kind, write, downstream, function, addr, bar, offset, size, int(value)))
            if sent is not None:
                count = self._published("call", sent.source)
                emit(InterruptSent(now, sent.source, "MSI-X", sent.vector, True, count, request))
        if place is not None and (emit := self._events.registers) is not None:
            emit(_register(now, place, write, size, value, self._published, request))

    # Messages

    def intx(self, function: int, asserted: bool) -> None:
        if (emit := self._events.tlps) is not None:
            request, now, source = next(self._numbers), trio.current_time(), self._places.endpoint(function)
            emit(TlpSent(now, source, request, "Msg", True, False, function, 0, None, None, 0, int(asserted)))
            emit(InterruptSent(now, source, "INTx", None, asserted, None, request))
        self._intx(function, asserted)


def _register(
    now: float, place: RegisterPlace, write: bool, size: int, value: int, published: Published, request: int | None
) -> RegisterAccessed:
    doorbell = write and place.doorbell
    count = published("kick", place.source) if doorbell else None
    where = place.register, place.bar, int(place.offset)
    return RegisterAccessed(now, place.source, write, *where, size, int(value), doorbell, count, request)


def watch_link(link: Link, events: Events, places: LinkPlaces, published: Published, numbers: Iterator[int]) -> Overlay:
    """Emit the requests of a link from now on, until the overlay is removed. ``numbers`` has those of the requests."""
    watched = _WatchedLink(link, events, places, published, numbers)
    calls = ("config_read", "config_write", "mem_read", "mem_write", "intx")
    return Overlay(link, {name: getattr(watched, name) for name in calls})


class _WatchedRegion:
    """The accesses to a region, and its interrupt line."""

    def __init__(
        self,
        region: PlatformRegion,
        events: Events,
        locate: Callable[[int, int], RegisterPlace],
        device: Source,
        published: Published,
    ) -> None:
        self._region = region
        self._events = events
        self._locate = locate
        self._device = device
        self._published = published
        self._read, self._write, self._set_irq = region.read, region.write, region.set_irq

    def read(self, offset: int, size: int) -> int:
        value = self._read(offset, size)
        self._tell(False, offset, size, value)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self._tell(True, offset, size, value)
        self._write(offset, size, value)

    def _tell(self, write: bool, offset: int, size: int, value: int) -> None:
        if (emit := self._events.registers) is not None:
            place = self._locate(offset, value)
            emit(_register(trio.current_time(), place, write, size, value, self._published, None))

    def set_irq(self, asserted: bool) -> None:
        if asserted != self._region.asserted and (emit := self._events.tlps) is not None:
            emit(InterruptSent(trio.current_time(), self._device, "line", None, asserted, None, None))
        self._set_irq(asserted)


def watch_region(
    region: PlatformRegion,
    events: Events,
    locate: Callable[[int, int], RegisterPlace],
    device: Source,
    published: Published,
) -> Overlay:
    """Emit the accesses to a region from now on, until the overlay is removed.

    ``locate`` returns the register at an offset, as `LinkPlaces.register` does; ``device`` is the source of interrupts.
    """
    watched = _WatchedRegion(region, events, locate, device, published)
    return Overlay(region, {name: getattr(watched, name) for name in ("read", "write", "set_irq")})
