"""What a link is: requests from one end to the other, windows onto the other end's memory, and epochs.

A link joins one root port to one endpoint controller. Links may wrap links (to take time, to lose
things, to trace), so nobody asks a link, an end or a window for its class.
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
    "Traffic",
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
    """What a read of ``size`` bytes gives where nothing answers."""
    return (1 << 8 * size) - 1


class LinkEnd(LinkEvents, Protocol):
    """What each end of a link answers to the other. ``function`` is the endpoint's function that asks."""

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        """A register of 1, 2, 4 or 8 bytes; None is "unsupported request"."""

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        """False is "unsupported request"."""

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        """Whatever real memory lies in that range, cut to it; registers are never part of it."""

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
class Traffic:
    """Requests of one kind: answered, lost because the link was down, and refused by the other end."""

    reads: int
    writes: int
    dropped: int
    unsupported: int


@attrs.frozen
class DirectionTiming:
    """What one direction of a timed link carried."""

    tlps: Mapping[str, int]
    """Transaction layer packets by kind, such as MWr."""
    payload: int
    """Bytes of data in them."""
    wire: int
    """Bytes that they took, headers and framing included."""


@attrs.frozen
class LinkTiming:
    """What a timed link carried, and how long it made its users wait."""

    generation: int
    lanes: int
    rate: float
    """Bytes per second and direction, for TLPs with their framing."""
    downstream: DirectionTiming
    upstream: DirectionTiming
    slept: float
    """Seconds that were slept out, over all who waited."""


@attrs.frozen
class LinkStatistics:
    """What crossed a link. Accesses through windows are not requests: an ideal link does not see them."""

    up: bool
    epoch: int
    windows: int
    """Open now."""
    config: Traffic
    downstream: Traffic
    upstream: Traffic
    messages: Traffic
    timing: LinkTiming | None = None
    """None where accesses take no time."""
    faults: Mapping[str, int] = attrs.field(factory=dict)
    """What was made to go wrong, by request and fault, such as "doorbell lost"."""


class Link(Protocol):
    """One link. While it is down, or where nothing answers, reads give all-ones and writes go nowhere."""

    @property
    def name(self) -> str: ...

    @property
    def up(self) -> bool:
        """Whether an endpoint is present and nobody took the link down."""

    @property
    def epoch(self) -> int:
        """Rises by one whenever the link comes up; 0 before the first time."""

    def attach_root(self, port: RootPort) -> None: ...

    def attach_endpoint(self, port: EndpointPort) -> None: ...

    def set_present(self, present: bool) -> None:
        """The endpoint controller starts or stops to be seen (presence detect of a slot)."""

    def bring_up(self) -> None:
        """Undo `bring_down`: the link comes up where an endpoint is present."""

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
        """What was in that range is gone: close every window over a byte of it; accesses raise ``fault``."""

    def statistics(self) -> LinkStatistics: ...

    @property
    def lossy(self) -> bool:
        """Whether a doorbell or an interrupt can get lost on it."""

    def meter(self, direction: Direction) -> Meter | None:
        """Who has to be told of accesses through windows that go in that direction; None where nobody counts them."""

    def beyond(self, direction: Direction, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        """The links that the other end passes accesses to that range on to: each has a meter of its own."""

    async def settle(self) -> None:
        """Sleep out the time that accesses so far take; returns at once, without a checkpoint, where they take none."""

    def watch(self, events: LinkEvents) -> None:
        """Tell ``events`` of every move from now on, before the two ends hear of it."""

    async def run(self) -> None:
        """What the link does of its own accord, until cancelled or there is nothing more to do."""


def clip(memory: MappedMemory, addr: int, size: int) -> list[Region]:
    """The parts of ``memory`` that lie in the range: what a window over it can reach."""
    parts = ((max(addr, base), min(addr + size, base + length)) for base, length in memory.ranges)
    return [(Addr(low), memory.view(Addr(low), high - low, True)) for low, high in parts if low < high]
