"""The contract of a link: requests between its ends, windows onto the other end's memory, and epochs.

A link joins one root port to one endpoint controller. Links may wrap links (to take time, to lose
things, to trace), so no code depends on the class of a link, an end or a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Protocol

from drivers.contracts.hw import LinkEvents
from rings.errors import MemoryFault
from rings.memory import Addr, Memory, RemoteBytes
from rings.observers.meter import Meter
from vnet.views.link import LinkStatistics

__all__ = [
    "OPPOSITE",
    "Counting",
    "Direction",
    "EndpointPort",
    "Fault",
    "Link",
    "LinkEnd",
    "RangedMemory",
    "Region",
    "RootPort",
    "Window",
    "all_ones",
]

Fault = Callable[[int, int, bool], MemoryFault]
"""Makes the error of a refused access from its address, size in bytes and whether it was a write."""
Region = tuple[Addr, memoryview | RemoteBytes]
"""Memory of one end, and its address on the link."""


class Direction(Enum):
    """The way a request travels."""

    DOWNSTREAM = "downstream"
    """From the root complex to the endpoint."""
    UPSTREAM = "upstream"


OPPOSITE = {Direction.DOWNSTREAM: Direction.UPSTREAM, Direction.UPSTREAM: Direction.DOWNSTREAM}


def all_ones(size: int) -> int:
    """Return the value of a read of ``size`` bytes that is not answered."""
    return (1 << 8 * size) - 1


class LinkEnd(LinkEvents, Protocol):
    """Requests that each end of a link answers. ``function`` is the requesting function of the endpoint."""

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        """Read a register of 1, 2, 4 or 8 bytes; return None for "unsupported request"."""

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        """Write a register; return False for "unsupported request"."""

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        """Return the real memory in that range, cut to it; registers are never part of it."""

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        """Return the links that the end forwards accesses to memory in that range to."""


class RootPort(LinkEnd, Protocol):
    """The end at the root complex."""

    def intx(self, function: int, asserted: bool) -> None:
        """Handle an Assert_INTx or Deassert_INTx message."""

    def removed(self) -> None:
        """Handle the endpoint's removal, after `link_down` if the link was up."""


class EndpointPort(LinkEnd, Protocol):
    """The end at the endpoint controller."""

    def config_read(self, function: int, offset: int, size: int) -> int | None: ...

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool: ...


class Window(Memory, Protocol):
    """A range of the other end's memory. The end of the epoch closes it: accesses raise LinkDown, and pins end."""

    @property
    def pinned(self) -> int:
        """Number of pinned views."""

    def regions(self) -> Sequence[Region]:
        """Return the memory itself, for another link to forward; this is no access and takes no time."""

    def close(self, fault: Fault | None = None) -> None:
        """Close the window; later accesses raise ``fault``. Closing it twice is harmless."""


class Counting(Protocol):
    """A link whose doorbells and interrupts may be counted instead of written: nothing else notes them."""

    def ends(self) -> tuple[LinkEnd | None, LinkEnd | None]:
        """Return the root port and the endpoint."""

    def count_writes(self, direction: Direction, count: int) -> None:
        """Count register writes that were passed on."""


class Link(Protocol):
    """One link. While it is down, or if nothing answers, reads return all-ones and writes are discarded."""

    @property
    def name(self) -> str: ...

    @property
    def up(self) -> bool:
        """Whether an endpoint is present and reachable, and the link was not taken down."""

    @property
    def present(self) -> bool:
        """Whether an endpoint is present, also while it cannot be reached or the link was taken down."""

    @property
    def epoch(self) -> int:
        """Number of link-ups so far."""

    def attach_root(self, port: RootPort) -> None: ...

    def attach_endpoint(self, port: EndpointPort) -> None: ...

    def direct(self) -> Counting | None:
        """Return the counters of the link if it is up, and does nothing with a write but to pass it on; else None."""

    def set_present(self, present: bool) -> None:
        """Set whether the endpoint is present (presence detect of a slot)."""

    def set_reachable(self, reachable: bool) -> None:
        """Set whether the present endpoint can be reached; it can at first. An endpoint may be another process."""

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
        """Return a window over the memory in that range. Raises LinkDown while the link is down."""

    def revoke(self, direction: Direction, addr: int, size: int, fault: Fault) -> None:
        """Close every window over a byte of that range, whose memory is gone; accesses raise ``fault``."""

    def remap(self, direction: Direction, addr: int, size: int) -> None:
        """Make windows show the memory that is in that range now. Pins stay if their memory is still in its place.

        The range has whole regions of the other end's memory, as they were and as they are.
        """

    def statistics(self) -> LinkStatistics: ...

    @property
    def lossy(self) -> bool:
        """Whether a doorbell or an interrupt can get lost on it."""

    def meter(self, direction: Direction) -> Meter | None:
        """Return the meter of accesses through windows in that direction; None if they are not counted."""

    def beyond(self, direction: Direction, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        """Return the links that the other end forwards accesses to that range to: each has its own meter."""

    async def settle(self) -> None:
        """Sleep until all accesses so far have crossed; return at once, without a checkpoint, if they take no time."""

    def watch(self, events: LinkEvents) -> None:
        """Report every change of state to ``events``, before the two ends are notified."""

    async def run(self) -> None:
        """Run the link's own activity (flaps, delays) until cancelled or done."""


class RangedMemory(Memory, Protocol):
    """Memory that lists its ranges."""

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Address and bytes of every region, ascending."""

    def contents(self, addr: int, size: int) -> list[Region]:
        """Return the memory in a range, for a window over it; this is no access."""
