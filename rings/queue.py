"""The two interfaces of a virtqueue, one for each side, implemented by both ring formats.

A driver holds a `Virtqueue`, a device a `Vringh`. Neither waits: an empty ring is a return value. A queue's whole life,
with its memory, the two sides, and one request:

>>> from rings import FORMATS, Addr, MappedMemory
>>> memory, form = MappedMemory(), FORMATS["split"]
>>> memory.add(Addr(0), memoryview(bytearray(1 << 16)))
>>> addrs, _ = form.contiguous(8, Addr(0), 64)
>>> driver = form.driver(memory, 8, addrs, event_idx=True)
>>> device = form.device(memory, 8, addrs, event_idx=True, indirect=False)
>>> device.notify_enable()  # the device waits: is work left?
False
>>> memory.view(Addr(0x8000), 5, True)[:] = b"hello"
>>> driver.add([(Addr(0x8000), 5)], [(Addr(0x9000), 16)], 7)
>>> driver.publish()  # must the driver kick?
True
>>> [(head, [question], [answer])] = device.getdescs(64)
>>> answer[:5] = bytes(question).upper()
>>> device.complete_each([(head, 5)])
>>> device.publish()  # must the device call?
True
>>> driver.get_each(64), bytes(memory.view(Addr(0x9000), 5))  # token and bytes written
([(7, 5)], b'HELLO')
>>> device.close(), driver.close()  # as after a reset
(None, None)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from rings.chain import Buffers, Chain, Plain
from rings.memory import Addr
from rings.view import RingView

__all__ = ["QueueState", "QueueStatistics", "Segment", "Virtqueue", "Vringh", "complete", "getdesc"]

Segment = tuple[Addr, int]
"""Address and size in bytes of one piece of a buffer, in the driver's address space."""


@attrs.frozen
class QueueStatistics:
    """Counters of one side of a queue since it was enabled."""

    chains: int
    """Chains added (driver) or taken (device)."""
    returned: int
    """Used chains received (driver) or completed (device)."""
    notifications: int
    """Notifications due: kicks (driver) or calls (device)."""
    suppressed: int
    """Publications without a notification, because the other side suppressed it."""
    bad_lengths: int = 0
    """Used lengths larger than the buffer, which the driver rejected."""

    def __add__(self, other: QueueStatistics) -> QueueStatistics:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return QueueStatistics(*(mine + theirs for mine, theirs in pairs))


@attrs.frozen
class QueueState:
    """Ring indices of one side, modulo 2^16."""

    num: int
    avail: int
    """Position of the next buffer to make available (driver) or to take (device)."""
    used: int
    """Position of the next used buffer to receive (driver) or to write (device)."""
    in_flight: int
    """Chains that the device has, from this side's point of view."""
    broken: bool = False


class Virtqueue(Protocol):
    """The driver's side: it owns the memory, adds buffers and gets them back.

    A token is the driver's own number for a chain, such as an index of its buffers.
    """

    num: int
    num_free: int
    """Free descriptors; a chain in an indirect table takes one."""
    native: bool
    """Whether plain chains are moved in C."""

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: int, /) -> None:
        """Add a chain of device-readable, then device-writable segments; `get_each` returns ``token`` with it.

        Raises QueueFull if there is no room, LocalRingError for an empty or oversized chain.
        """

    def add_each(self, buffers: Sequence[tuple[Addr, int, int]], writable: bool, /) -> None:
        """Add a single-descriptor chain for each (address, bytes, token). Far cheaper than as many calls of `add`.

        Raises QueueFull if there is no room for all of them, or LocalRingError; then nothing is added.
        """

    def publish(self) -> bool:
        """Make the added chains available to the device. Returns whether it has to be kicked."""

    def get_each(self, limit: int, /) -> list[tuple[int, int]]:
        """Return token and bytes written of up to ``limit`` used buffers.

        Raises BadRing if the device violates the rules of the used ring; then the next call does so after the good
        buffers. A length larger than the writable part counts as a bad length and is returned as 0, because none of
        that buffer is certain to be written.
        """

    def enable_cb(self) -> bool:
        """Enable callbacks from the next used buffer on. Returns True if one is used already: call `get_each` again."""

    def enable_cb_delayed(self) -> bool:
        """Enable a callback after most of the buffers in flight are used. Returns True if they are used already."""

    def disable_cb(self) -> None:
        """Suppress callbacks; a hint, so the device may still call."""

    def reachable(self) -> bool:
        """Return whether the ring's memory is still mapped."""

    def close(self) -> None:
        """Release the ring's memory."""

    def state(self) -> QueueState: ...

    def statistics(self) -> QueueStatistics: ...

    def view(self) -> RingView:
        """Return the ring as it stands in the driver's memory; nothing is counted or changed."""


class Vringh(Protocol):
    """The device's side: it reaches the ring through the memory it is given, and validates all it reads."""

    @property
    def num(self) -> int:
        """Descriptors in the ring."""

    @property
    def native(self) -> bool:
        """Whether plain chains are moved in C now."""

    @property
    def broken(self) -> bool:
        """Whether the queue is latched: it reads as empty."""

    @property
    def paused(self) -> bool:
        """Whether the ring reads as empty because the work budget of this turn is used up."""

    def pace(self, work: int, /) -> None:
        """Begin a turn with a budget of ``work`` units. Without a call, the budget is unlimited.

        Each descriptor of a multi-descriptor chain costs one unit. Once the budget is used up the ring reads as empty,
        and `notify_enable` reports work left. A chain is never cut, so the last one may exceed the budget.
        """

    def spend(self, work: int, /) -> None:
        """Charge the device's own work, such as bytes moved, to the budget of the turn."""

    def getdescs(self, limit: int, /) -> list[Chain]:
        """Take up to ``limit`` chains, fetching each descriptor once and checking it.

        Raises BadRing for a violation by the driver, MemoryFault for an unreachable buffer, in the first chain. A bad
        chain behind good ones ends the batch; the next call meets it first.
        """

    def getbufs(self, limit: int, /) -> Buffers:
        """Take up to ``limit`` write-only chains, such as receive buffers. Costs half of `getdescs`.

        Stops before any other chain, and before a bad one: `getdescs` reports it. Raises BadRing if the ring itself is
        bad.
        """

    def getplain(self, limit: int, writable: bool, /) -> Plain:
        """Take up to ``limit`` chains of one descriptor, all writable or all readable, in C.

        Stops before any other chain, and before a bad one: `getdescs` takes or reports it. Takes none if the plain path
        is Python's, the ring is observed, or the memory has checks of its own. Raises BadRing for a bad index.
        """

    def complete_read(self, chains: Sequence[tuple[int, int, int]], count: int, /) -> None:
        """Mark the first ``count`` chains of `getplain` as used, with 0 bytes written."""

    def abandon(self, count: int, /) -> Sequence[int]:
        """Put the ``count`` chains taken last back; they are taken next, in the same order as before.

        Returns their heads, the last one first. Raises LocalRingError, and puts none back, if one of them was
        completed, or fewer were taken.
        """

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        """Mark chains as used, each as (head, bytes written); `publish` shows them to the driver.

        Raises LocalRingError for a chain that is not in flight.
        """

    def complete_batch(self, heads: Sequence[int], /) -> None:
        """Mark chains as used by one used element, if buffers are used in order (sections 2.7.9 and 2.8.8).

        They are the oldest ones in flight, in the order in which they were taken, without writable buffers. Raises
        LocalRingError for a chain that is not in flight.
        """

    def publish(self) -> bool:
        """Show the completed chains to the driver. Returns whether it has to be called."""

    def show(self) -> bool:
        """Show the completed chains to the driver, for a device that calls later: `decide` follows.

        Returns whether chains are shown that no `decide` followed.
        """

    def decide(self) -> bool:
        """Return whether the driver has to be called for the chains of each `show` since the last `decide`."""

    def notify_enable(self) -> bool:
        """Enable kicks. Returns ``work_left``: True if there are chains to take already, so call `getdescs` again."""

    def notify_disable(self) -> None:
        """Suppress kicks; a hint, so the driver may still kick."""

    def in_flight(self) -> Sequence[int]:
        """Return the heads of the chains taken and neither completed nor abandoned, then of those to take again.

        The latter are chains that another device's side left in flight; `state` counts them only once they are taken.
        """

    def latch(self) -> None:
        """Break the queue until reset: it reads as empty. Chains in flight may still be completed."""

    def reachable(self) -> bool:
        """Return whether the ring's memory is still mapped."""

    def close(self) -> None:
        """Release the ring's memory."""

    def state(self) -> QueueState: ...

    def statistics(self) -> QueueStatistics: ...


def getdesc(ring: Vringh) -> Chain | None:
    """Take the next chain, as `Vringh.getdescs` with a limit of 1. Returns None if there is none.

    For devices whose requests differ much in work (disks, SCSI, control queues): their budget is checked before each.
    """
    chains = ring.getdescs(1)
    return chains[0] if chains else None


def complete(ring: Vringh, head: int, written: int) -> None:
    """Mark one chain as used, with ``written`` bytes, as `Vringh.complete_each` does.

    For devices that answer each request when it is done.
    """
    ring.complete_each(((head, written),))
