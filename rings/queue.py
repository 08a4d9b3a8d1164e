"""The two interfaces of a virtqueue, one for each side, which both ring formats implement.

A driver holds a `Virtqueue`, a device a `Vringh`. Neither waits: "nothing yet" is a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import attrs

from rings.chain import Buffers, Chain
from rings.memory import Addr

__all__ = ["Meter", "QueueState", "QueueStatistics", "Segment", "Virtqueue", "Vringh"]

Segment = tuple[Addr, int]
"""Address and bytes of one piece of a buffer, as the driver names it."""
T = TypeVar("T")


@attrs.frozen
class QueueStatistics:
    """What one side of a queue did since it was enabled."""

    chains: int
    """Chains added (driver) or taken (device)."""
    returned: int
    """Chains that came back (driver) or were given back (device)."""
    notifications: int
    """Times the other side had to be told: kicks (driver) or calls (device)."""
    suppressed: int
    """Publications about which the other side did not want to be told."""
    bad_lengths: int = 0
    """Used lengths beyond what the buffer could hold, which the driver refused."""

    def __add__(self, other: QueueStatistics) -> QueueStatistics:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return QueueStatistics(*(mine + theirs for mine, theirs in pairs))


@attrs.frozen
class QueueState:
    """Where one side stands: its own indices, modulo 2^16."""

    num: int
    avail: int
    """Next buffer to make available (driver) or to take (device)."""
    used: int
    """Next used buffer to get back (driver) or to give back (device)."""
    in_flight: int
    """Chains the device has, as this side knows it."""
    broken: bool = False


class Meter(Protocol):
    """Counts the accesses of one side to memory that somebody else has to carry for it; ``size`` in bytes."""

    def read(self, size: int, /) -> None: ...

    def write(self, size: int, /) -> None: ...


class Virtqueue(Protocol, Generic[T]):
    """The driver's side: it owns the memory, adds buffers and gets them back."""

    num: int
    num_free: int
    """Descriptors that are free; a chain that goes through an indirect table takes one."""

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: T, /) -> None:
        """Add one chain: what the device may read, then what it may write; ``token`` comes back with it.

        Raises QueueFull when there is no room, LocalRingError for an empty or oversized chain.
        """

    def add_each(self, buffers: Sequence[tuple[Addr, int, T]], writable: bool, /) -> None:
        """Add a chain of one descriptor for each (address, bytes, token): a batch costs far less than its parts.

        Raises QueueFull where there is no room for all of them, and LocalRingError; then nothing was added.
        """

    def publish(self) -> bool:
        """Show the device what was added since the last time; True when it wants to be kicked."""

    def get(self) -> tuple[T, int] | None:
        """The token of the next used buffer and the bytes the device wrote, or None.

        Raises BadRing for whatever a device must not put into its used ring. A length beyond the writable
        part counts as a bad length and is given as 0: nothing of that buffer was surely written.
        """

    def get_each(self, limit: int, /) -> list[tuple[T, int]]:
        """What up to ``limit`` calls of `get` give. BadRing is raised only where the first would raise it."""

    def enable_cb(self) -> bool:
        """Ask to be called for the next used buffer; True when one is there already: look again."""

    def enable_cb_delayed(self) -> bool:
        """Ask to be called when most of what is in flight was used; True when that is so already."""

    def disable_cb(self) -> None:
        """Ask not to be called; a hint, calls may still come."""

    def detach_unused(self) -> Iterator[T]:
        """After the queue was reset: the tokens that never came back, each once."""

    def reachable(self) -> bool:
        """Whether the ring's memory is still there: neither closed nor taken away."""

    def close(self) -> None:
        """Let go of the ring's memory."""

    def state(self) -> QueueState: ...

    def statistics(self) -> QueueStatistics: ...


class Vringh(Protocol):
    """The device's side: it sees the ring through a memory it was given and believes nothing it reads."""

    num: int
    broken: bool

    @property
    def paused(self) -> bool:
        """Whether the ring reads as empty because the work of this turn is done."""

    def pace(self, work: int, /) -> None:
        """Begin a turn of that much work; without, there is no bound.

        Each descriptor of a chain that has several is one unit. Once all are spent the ring reads as empty, though
        `notify_enable` says that there is more. A chain is never cut: one more than the turn has room for is taken.
        """

    def spend(self, work: int, /) -> None:
        """Count work of the device's own, such as bytes that it moves, among that of the turn."""

    def getdesc(self) -> Chain | None:
        """Take the next chain, every descriptor of it fetched once and checked; None when there is none.

        Raises BadRing for what no driver may do, and the memory's MemoryFault for an unreachable buffer.
        """

    def getdescs(self, limit: int, /) -> list[Chain]:
        """What up to ``limit`` calls of `getdesc` give. An error is raised only where the first would raise it."""

    def getbufs(self, limit: int, /) -> Buffers:
        """Take up to ``limit`` chains that can only be written to, as receive buffers are. Costs half of `getdescs`.

        Ends in front of any other chain, and of a bad one: `getdesc` says what is there. Raises BadRing where the ring
        itself is bad.
        """

    def abandon(self, head: int, /) -> None:
        """Give the chain taken last back untouched; the next `getdesc` takes it again."""

    def complete(self, head: int, written: int, /) -> None:
        """Give a chain back with the bytes written into it; shown to the driver by `publish`."""

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        """`complete` for each (head, bytes written)."""

    def publish(self) -> bool:
        """Show the driver what was completed since the last time; True when it wants to be called."""

    def notify_enable(self) -> bool:
        """Ask to be kicked; True when a chain is there already: look again."""

    def notify_disable(self) -> None:
        """Ask not to be kicked; a hint, kicks may still come."""

    def held(self) -> Sequence[int]:
        """The heads of the chains that were taken and neither completed nor given back."""

    def latch(self) -> None:
        """Break the queue until reset: it reads as empty from now on, what was taken may be completed."""

    def reachable(self) -> bool:
        """Whether the ring's memory is still there: neither closed nor taken away."""

    def close(self) -> None:
        """Let go of the ring's memory."""

    def state(self) -> QueueState: ...

    def statistics(self) -> QueueStatistics: ...
