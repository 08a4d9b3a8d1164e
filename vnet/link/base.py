"""The contract of a link: requests between its ends, windows onto the other end's memory, and epochs.

A link joins one root port to one endpoint controller. Links may wrap links (to take time, to lose
things, to trace), so no code depends on the class of a link, an end or a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol

import attrs

from drivers.contracts.hw import LinkEvents
from rings.errors import MemoryFault
from rings.memory import Addr, MappedMemory, Memory
from rings.queue import Meter

__all__ = [
    "Direction",
    "DirectionTiming",
    "EndpointPort",
    "Fault",
    "Link",
    "LinkEnd",
    "LinkStatistics",
    "LinkTiming",
    "Region",
    "RootPort",
    "LinkTraffic",
    "Window",
    "all_ones",
    "clip",
]

Fault = Callable[[int, int, bool], MemoryFault]
"""Makes the error of a refused access from its address, size in bytes and whether it was a write."""
Region = tuple[Addr, memoryview]
"""Memory of one end, and its address on the link."""


class Direction(Enum):
    """The way a request travels."""

    DOWNSTREAM = "downstream"
    """From the root complex to the endpoint."""
    UPSTREAM = "upstream"


def all_ones(size: int) -> int:
    """Return the value of a read of ``size`` bytes that is not answered."""
    return (1 << 8 * size) - 1


class LinkEnd(LinkEvents, Protocol):
    """Requests that each end of a link answers. ``function`` is the requesting function of the endpoint."""

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        """A register of 1, 2, 4 or 8 bytes; None is "unsupported request"."""

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        """False is "unsupported request"."""

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        """Return the real memory in that range, cut to it; registers are never part of it."""

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        """The links that accesses to memory in that range are passed on to."""


class RootPort(LinkEnd, Protocol):
    """The end at the root complex."""

    def intx(self, function: int, asserted: bool) -> None:
        """An Assert_INTx or Deassert_INTx message came in."""

    def removed(self) -> None:
        """The endpoint is gone for good, after `link_down` where the link was up."""


class EndpointPort(LinkEnd, Protocol):
    """The end at the endpoint controller."""

    def config_read(self, function: int, offset: int, size: int) -> int | None: ...

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool: ...


class Window(Memory, Protocol):
    """A range of the other end's memory, until the epoch ends: then views raise LinkDown and pins are gone."""

    @property
    def pinned(self) -> int:
        """How many pinned views there are."""

    def regions(self) -> Sequence[Region]:
        """The memory itself, for another link to pass on; asking is no access and takes no time."""

    def close(self, fault: Fault | None = None) -> None:
        """Give the window up before that; later accesses raise ``fault``. Twice is harmless."""


@attrs.frozen
class LinkTraffic:
    """Requests of one kind: answered, lost because the link was down, and refused by the other end."""

    reads: int
    writes: int
    dropped: int
    unsupported: int


@attrs.frozen
class DirectionTiming:
    """Figures of one direction of a timed link."""

    tlps: Mapping[str, int]
    """Transaction layer packets by kind, such as MWr."""
    payload: int
    """Bytes of data in them."""
    wire: int
    """Bytes that they took, headers and framing included."""


@attrs.frozen
class LinkTiming:
    """Figures of a timed link, with the time its users waited."""

    generation: int
    lanes: int
    rate: float
    """Bytes per second and direction, for TLPs with their framing."""
    downstream: DirectionTiming
    upstream: DirectionTiming
    slept: float
    """Seconds slept, summed over all waiting tasks."""


@attrs.frozen
class LinkStatistics:
    """Figures of a link. Accesses through windows are not requests: an ideal link does not see them."""

    up: bool
    epoch: int
    windows: int
    """Open now."""
    config: LinkTraffic
    downstream: LinkTraffic
    upstream: LinkTraffic
    messages: LinkTraffic
    timing: LinkTiming | None = None
    """None if accesses take no time."""
    faults: Mapping[str, int] = attrs.field(factory=dict)
    """Injected faults by request and kind, such as "doorbell lost"."""


class Link(Protocol):
    """One link. While it is down, or if nothing answers, reads return all-ones and writes are discarded."""

    @property
    def name(self) -> str: ...

    @property
    def up(self) -> bool:
        """Whether an endpoint is present and the link was not taken down."""

    @property
    def epoch(self) -> int:
        """Rises by one whenever the link comes up; 0 before the first time."""

    def attach_root(self, port: RootPort) -> None: ...

    def attach_endpoint(self, port: EndpointPort) -> None: ...

    def set_present(self, present: bool) -> None:
        """The endpoint controller starts or stops to be seen (presence detect of a slot)."""

    def bring_up(self) -> None:
        """Undo `bring_down`: the link comes up if an endpoint is present."""

    def bring_down(self) -> None:
        """Take the link down and keep it down. The endpoint stays present."""

    def config_read(self, function: int, offset: int, size: int) -> int: ...

    def config_write(self, function: int, offset: int, size: int, value: int) -> None: ...

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int: ...

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None: ...

    def intx(self, function: int, asserted: bool) -> None: ...

    def map(self, direction: Direction, addr: int, size: int, function: int = 0) -> Window:
        """Reach the memory in that range. Raises LinkDown while the link is down."""

    def revoke(self, direction: Direction, addr: int, size: int, fault: Fault) -> None:
        """Close every window over a byte of that range, whose memory is gone; accesses raise ``fault``."""

    def statistics(self) -> LinkStatistics: ...

    @property
    def lossy(self) -> bool:
        """Whether a doorbell or an interrupt can get lost on it."""

    def meter(self, direction: Direction) -> Meter | None:
        """The meter of accesses through windows in that direction; None if they are not counted."""

    def beyond(self, direction: Direction, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        """The links that the other end passes accesses to that range on to: each has a meter of its own."""

    async def settle(self) -> None:
        """Sleep out the time that accesses so far take; returns at once, without a checkpoint, if they take none."""

    def watch(self, events: LinkEvents) -> None:
        """Report every change of state to ``events``, before the two ends are notified."""

    async def run(self) -> None:
        """Run the link's own activity (flaps, delays) until cancelled or done."""


def clip(memory: MappedMemory, addr: int, size: int) -> list[Region]:
    """The parts of ``memory`` that lie in the range: what a window over it can reach."""
    parts = ((max(addr, base), min(addr + size, base + length)) for base, length in memory.ranges)
    return [(Addr(low), memory.view(Addr(low), high - low, True)) for low, high in parts if low < high]
