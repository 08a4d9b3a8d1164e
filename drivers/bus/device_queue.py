"""A queue of a device, seen from the device's side, for all transports and device types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
import trio

from drivers.contracts.events import QueueEnabled, QueueStopped, Reporter
from drivers.contracts.hw import NO_VECTOR
from drivers.flow.pump import AGAIN, BATCH_BUCKETS, QUEUE, RECHECK, Signal, Wait, pump
from rings.errors import MemoryFault, RemoteRingError, section_of
from rings.formats import ring_format
from rings.layout import RingAddrs
from rings.memory import Addr
from rings.queue import QueueStatistics, Vringh

__all__ = ["CallDelay", "DeviceQueue", "OfferedQueue", "QueueOps", "QueueOwner"]

PACE = 512
"""Work budget of a turn in units of `rings.queue.Vringh.pace`: about a millisecond."""
DISCARD_BATCH = 64
"""Chains discarded at a time."""
NOWHERE = RingAddrs(Addr(0), Addr(0), Addr(0))


class QueueOps(Protocol):
    """The part of a transport's back half that a queue uses."""

    @property
    def lossy(self) -> bool:
        """Whether kicks can get lost."""

    def call(self, queue: DeviceQueue) -> None:
        """Notify the driver that buffers were used. Posted."""


class QueueOwner(Protocol):
    """The device of a queue, as the queue uses it."""

    @property
    def ops(self) -> QueueOps:
        """Operations of the device's transport."""

    @property
    def features(self) -> int:
        """Negotiated feature bits."""

    @property
    def reporter(self) -> Reporter:
        """Reporter of the device's events."""

    def fail(self, reason: str) -> None:
        """Stop the device until its driver resets it."""


class CallDelay(Protocol):
    """Keeps back the calls of a queue, such as to coalesce them."""

    def due(self, undecided: bool, /) -> bool:
        """Return whether to decide now about a call; ``undecided``: the driver sees chains that it was not called for.

        Called at each batch. For later, the device type calls `DeviceQueue.decide`.
        """


@attrs.frozen
class OfferedQueue:
    """A queue, as a device type offers it."""

    name: str
    max_num: int
    """Maximum size in descriptors."""
    table_max: int = 0
    """Maximum descriptors of an indirect table that the device accepts even if the ring has fewer, for a device type
    whose configuration states a number of segments: Linux sizes its tables by that number alone."""
    discards: bool = False
    """Whether the queue discards chains while it is muted."""


class DeviceQueue:
    """A queue of a device: the driver's configuration, and the ring while it is enabled."""

    def __init__(self, device: QueueOwner, index: int, offered: OfferedQueue) -> None:
        self.device = device
        self.index = index
        self.name = offered.name
        self.max_num = offered.max_num
        self.table_max = offered.table_max
        self.discards = offered.discards
        self.signal = Signal(RECHECK if device.ops.lossy else None)
        self.batches = [0] * BATCH_BUCKETS
        self.kicks = self.spurious = 0
        self.fault = ""
        """Last rule that the driver violated, or access that failed, with its section; empty if there was none."""
        self._past = QueueStatistics(0, 0, 0, 0)
        self.ring_count = 0
        """Number of rings that the queue has had."""
        self._new_ring = trio.lowlevel.ParkingLot()
        self._ring_scope: trio.CancelScope | None = None
        self._ended = False  # whether `serve` ended before its ring, so that chains in flight are never completed
        self._progress: trio.Event | None = None  # set by each completion while `drain` waits
        self.ring: Vringh | None = None
        self.forget()

    @property
    def reporter(self) -> Reporter:
        """Reporter of the queue's events."""
        return self.device.reporter.of_queue(self.name)

    def forget(self) -> None:
        """Reset the configuration to its initial values."""
        self.close()
        self.num = self.max_num
        self.addrs = NOWHERE
        self.vector = NO_VECTOR
        self.delay: CallDelay | None = None
        """Keeps back calls; None if each batch decides about one."""
        self.muted = False
        """Whether the driver wants the queue to have no effect for now. Set by a transport."""
        self.enabled = False
        self.was_reset = False
        """Whether the driver has reset the queue, so that it may configure it while the device runs."""

    def set_recheck(self, on: bool) -> None:
        """Re-check the ring periodically, because kicks can get lost, or no longer; and now, once."""
        self.signal.set_recheck(RECHECK if on else None)

    def resize(self, num: int) -> None:
        """Set the driver's queue size; ignored if it is invalid (sections 2.7 and 2.8)."""
        if ring_format(self.device.features).has_num(num, self.max_num):
            self.num = num

    def close(self) -> None:
        """Release the ring at once and wake the tasks that wait for it."""
        self.live = False
        if self._progress is not None:
            self._progress.set()
        if self.ring is not None:
            if self._ring_scope is not None:
                # Cancel before the signal wakes the task: the next ring may begin in this turn, with its own `serve`.
                self._ring_scope.cancel()
            self._past = self.statistics()
            self.ring.close()
            self.ring = None
            self.signal.set()
            self.reporter.lifecycle(QueueStopped)

    def begin(self, ring: Vringh) -> None:
        """Start to serve ``ring``."""
        self.ring = ring
        self.begin_turn()
        self.enabled = self.live = True
        self.was_reset = False
        self._ended = False
        self.ring_count += 1
        self._new_ring.unpark_all()
        self.reporter.lifecycle(QueueEnabled, self.num)

    async def serve_each_ring(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Run ``serve`` once per ring of the queue, until cancelled.

        Some transports start and stop the rings of a running device one by one. ``serve`` is cancelled when its ring
        closes, or ends before.
        """
        served = 0
        while True:
            await self.wait_ring(served)
            served = self.ring_count
            with trio.CancelScope() as self._ring_scope:
                await (pump(_DiscardFlow(self)) if self.muted else serve())
            self._ring_scope = None
            if self.ring_count == served:
                self._ended = True
                if self._progress is not None:
                    self._progress.set()

    async def wait_ring(self, served: int) -> None:
        """Wait until the queue is live with a ring later than number ``served``, see `ring_count`."""
        while not self.live or self.ring_count == served:
            await self._new_ring.park()

    async def drain(self) -> None:
        """Take no more chains, and wait until all chains in flight are completed, or never will be."""
        ring = self.ring
        if ring is None:
            return
        ring.latch()
        self._progress = trio.Event()
        try:
            self.flush()
            while ring is self.ring and not self._ended and ring.reachable() and ring.state().in_flight:
                await self._progress.wait()
                self._progress = trio.Event()
        finally:
            self._progress = None

    def follow(self, former: DeviceQueue) -> None:
        """Continue the counters of ``former``, the previous queue of the same name."""
        self._past = former.statistics()
        self.kicks, self.spurious, self.batches = former.kicks, former.spurious, former.batches
        self.signal.rescues = former.signal.rescues
        self.fault = former.fault

    def statistics(self) -> QueueStatistics:
        """Return the counters over the device's lifetime, including all resets."""
        return self._past if self.ring is None else self._past + self.ring.statistics()

    def reachable(self) -> bool:
        return self.ring is not None and self.ring.reachable()

    def begin_turn(self) -> None:
        if self.ring is not None:
            self.ring.pace(PACE)

    def quiet(self) -> None:
        if self.ring is not None:
            self.ring.notify_disable()

    def rearm(self) -> bool:
        return self.ring is not None and self.ring.notify_enable()

    def flush(self) -> None:
        if self.ring is not None:
            if self.delay is not None:
                if self.delay.due(self.ring.show()):
                    self.decide()
            elif self.ring.publish():
                self.device.ops.call(self)
        if self._progress is not None:
            self._progress.set()

    def decide(self) -> None:
        """Call the driver if it wants to be called for the chains that were shown under a `CallDelay`."""
        if self.ring is not None and self.ring.decide():
            self.device.ops.call(self)

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        """Break the queue, and have the device ask for a reset."""
        if self.ring is not None:
            self.ring.latch()
        section = section_of(error)
        self.fault = f"{error} (VIRTIO 1.4, {section})" if section else str(error)
        self.reporter.lifecycle(QueueStopped, str(error), section)
        self.device.fail(f"{self.name}: {error}")


class _DiscardFlow:
    """A flow that completes all available chains unused."""

    def __init__(self, queue: DeviceQueue) -> None:
        self.queue = queue

    def move(self) -> tuple[int, Wait]:
        ring = self.queue.ring
        chains = ring.getdescs(DISCARD_BATCH) if ring is not None and self.queue.discards else []
        if ring is not None and chains:
            ring.complete_each([(head, 0) for head, _, _ in chains])
        return len(chains), AGAIN if len(chains) == DISCARD_BATCH else QUEUE
