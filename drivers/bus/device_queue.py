"""One queue of a device, as its own side holds it: the same whatever carries the device and whatever it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from drivers.flow.pump import BATCH_BUCKETS, RECHECK, Need, QueueFlow, Signal, pump
from rings.errors import MemoryFault, RemoteRingError
from rings.formats import ring_format
from rings.queue import QueueStatistics, Vringh

if TYPE_CHECKING:
    from drivers.bus.vhost import VhostDevice

__all__ = ["NO_VECTOR", "DeviceQueue"]

NO_VECTOR = 0xFFFF
PACE = 512
"""Units of work after which a flow lets others run, as `rings.queue.Vringh.pace` counts them: about a millisecond."""
DISCARDED = 64
"""Chains at a time."""


class DeviceQueue:
    """One queue of a device: what the driver configured, and the ring once it is enabled."""

    def __init__(self, device: VhostDevice, index: int, name: str, max_num: int) -> None:
        self.device = device
        self.index = index
        self.name = name
        self.max_num = max_num
        self.signal = Signal(RECHECK if device.lossy else None)
        self.batches = [0] * BATCH_BUCKETS
        self.kicks = self.spurious = 0
        self.discards = False
        """Whether what is in it is thrown away while it is `muted`: said by the device type that offers it."""
        self.table_max = 0
        """Descriptors of a chain with an indirect table that the device accepts even if the ring has fewer. Set by a
        device type whose configuration promises a number of segments: Linux builds tables by that number alone."""
        self._past = QueueStatistics(0, 0, 0, 0)
        self._lives = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._life: trio.CancelScope | None = None
        self._left = False  # by who served the ring: it broke, and what is in flight is given back by nobody
        self._drained: trio.Event | None = None
        self.ring: Vringh | None = None
        self.forget()

    def forget(self) -> None:
        """Back to the values a reset leaves."""
        self.close()
        self.num = self.max_num
        self.desc = self.driver = self.used = 0
        self.vector = NO_VECTOR
        self.base: int | None = None
        """Where the ring starts: set by a transport that can go on with one that was in use."""
        self.wrap_ring: Callable[[Vringh], Vringh] | None = None
        """What such a transport puts around it. Raises BadRing."""
        self.muted = False
        """Set by such a transport: the driver wants this queue to have no effect for now."""
        self.enabled = False

    def resize(self, num: int) -> None:
        """The driver chose a size; one that can't be changes nothing (sections 2.7 and 2.8)."""
        if ring_format(self.device.features).has_num(num, self.max_num):
            self.num = num

    def close(self) -> None:
        """Let go of the ring at once; whoever waits for it is woken."""
        self.live = False
        if self._drained is not None:
            self._drained.set()
        if self.ring is not None:
            if self._life is not None:
                # Before who waits is woken: the next ring may begin in this very turn, and is not for who served this.
                self._life.cancel()
            self._past = self.statistics()
            self.ring.close()
            self.ring = None
            self.signal.set()

    def begin(self, ring: Vringh) -> None:
        """From now on there is a ring."""
        self.ring = ring
        self.begin_turn()
        self.enabled = self.live = True
        self._left = False
        self._lives += 1
        self._changed.unpark_all()

    async def serve_each_ring(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Run ``serve`` on every ring that the queue comes to have, until cancelled.

        Some transports start and stop the rings of a running device one by one. ``serve`` is cancelled with its ring,
        or ends before.
        """
        served = 0
        while True:
            while not self.live or self._lives == served:
                await self._changed.park()
            served = self._lives
            with trio.CancelScope() as self._life:
                await (pump(_Discard(self)) if self.muted else serve())
            self._life = None
            if self._lives == served:
                self._left = True
                if self._drained is not None:
                    self._drained.set()

    async def drain(self) -> None:
        """Take nothing more from the ring, and return when all that was taken is given back, or nobody will do so."""
        ring = self.ring
        if ring is None:
            return
        ring.latch()
        self._drained = trio.Event()
        try:
            self.flush()
            while ring is self.ring and not self._left and ring.reachable() and ring.state().in_flight:
                await self._drained.wait()
                self._drained = trio.Event()
        finally:
            self._drained = None

    def follow(self, former: DeviceQueue) -> None:
        """Count on from the queue of the same name that the device's last driver offered."""
        self._past = former.statistics()
        self.kicks, self.spurious, self.batches = former.kicks, former.spurious, former.batches
        self.signal.rescues = former.signal.rescues

    def statistics(self) -> QueueStatistics:
        """The rings' figures since the device exists, over all resets."""
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
        if self.ring is not None and self.ring.publish():
            self.device.ops.call(self)
        if self._drained is not None:
            self._drained.set()

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        if self.ring is not None:
            self.ring.latch()
        self.device.on_broken(self, error)
        self.device.fail(f"queue {self.index}: {error}")


class _Discard(QueueFlow):
    """A flow that takes what there is, and gives it back unused."""

    def __init__(self, queue: DeviceQueue) -> None:
        self.queue = queue

    def move(self) -> tuple[int, Need]:
        ring = self.queue.ring
        chains = ring.getdescs(DISCARDED) if ring is not None and self.queue.discards else []
        if ring is not None and chains:
            ring.complete_each([(head, 0) for head, _, _ in chains])
        return len(chains), Need.TURN if len(chains) == DISCARDED else Need.QUEUE
