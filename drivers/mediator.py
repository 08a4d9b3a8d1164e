"""The mediated design: an endpoint has an ordinary virtio device for its own driver, and a mediator joins it to the
device that the other host drives.

Both are devices, so both ends are vringhs: the mediator copies the buffers that one driver sends, once, into the
buffers that the other driver has made available for receiving. Each device type defines how a buffer is copied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from drivers.bus.vhost import DeviceQueue, VhostBound, VhostDevice
from drivers.contracts.liveness import Liveness
from drivers.errors import ProbeDeferred
from drivers.flow.pump import AGAIN, QUEUE, Serve, Signal, Wait, count_batch, pump, wait_for_work
from rings.chain import Chain
from rings.errors import MemoryFault, RemoteRingError
from rings.queue import Vringh
from rings.status import Status

__all__ = ["Copier", "MediatedEnd", "Mediator", "MediatorStatistics", "QueuePair"]

BUDGET = 64
"""Maximum chains moved in a turn."""
BUDGET_BYTES = 1 << 19
"""Bytes copied before a turn ends."""
CHUNK = 32
"""Chains taken from the source at a time."""


@attrs.define
class MediatorStatistics:
    """Counters of one direction over the mediator's lifetime."""

    buffers: int = 0
    payload_bytes: int = 0
    """Bytes to transfer, including headers."""
    copied_bytes: int = 0
    """Bytes copied: the same number, because each is copied once."""
    drops: Counter[str] = attrs.field(factory=Counter)

    def drop(self, cause: str) -> None:
        self.drops[cause] += 1

    def count_copies(self, buffers: int, size: int) -> None:
        """Count ``buffers`` copied unchanged, of ``size`` bytes in total."""
        self.buffers += buffers
        self.payload_bytes += size
        self.copied_bytes += size

    def count(self, copied: int, size: int, cause: str) -> None:
        """Count a buffer of ``size`` bytes as transferred with ``copied`` bytes, or, if that is 0, as dropped."""
        if copied:
            self.buffers += 1
            self.payload_bytes += size
            self.copied_bytes += copied
        else:
            self.drop(cause)


class Copier(ABC):
    """Copies buffers of one device type from one ring to another."""

    def __init__(self, statistics: MediatorStatistics) -> None:
        self.statistics = statistics

    def copy(self, chains: Sequence[Chain], sink: Vringh, done: list[tuple[int, int]]) -> None:
        """Copy buffers from the front of ``chains`` into chains taken from ``sink``, complete the latter, and count.

        Appends the heads of copied or dropped chains to ``done``, with 0 bytes written. Stops early if ``sink`` has too
        few chains; the next call begins with the same buffer.
        """
        for head, readable, writable in chains:
            if writable:
                self.statistics.drop("writable")
            elif not self.copy_one(readable, sink):
                return
            done.append((head, 0))

    @abstractmethod
    def copy_one(self, source: Sequence[memoryview], sink: Vringh) -> bool:
        """Copy one buffer. Returns False if ``sink`` has too few chains."""


class QueuePair:
    """The source's and the sink's queue as one queue for the pump: it publishes both, and waits for the source."""

    def __init__(self, source: DeviceQueue, sink: DeviceQueue) -> None:
        self.source = source
        self.sink = sink
        self.batches = source.batches
        self.fill_count = 0
        """Sink buffers that are filled and not published."""
        self._rings = source.ring_count, sink.ring_count
        self.active = source
        """The queue whose ring is being accessed, which breaks if an error is raised."""

    @property
    def live(self) -> bool:
        return self.source.live and self.sink.live

    async def wait_ring(self) -> None:
        """Wait until either queue has another ring than when the pair was made, and both are live.

        A driver may reset one queue and enable it again.
        """
        while not self.live or (self.source.ring_count, self.sink.ring_count) == self._rings:
            await self._wait_either()

    async def _wait_either(self) -> None:
        """Wait until either queue has a new ring."""
        async with trio.open_nursery() as nursery:

            async def wait(queue: DeviceQueue) -> None:
                await queue.wait_ring(queue.ring_count)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self.source)
            nursery.start_soon(wait, self.sink)

    @property
    def signal(self) -> Signal:
        return self.source.signal

    def reachable(self) -> bool:
        return self.source.reachable() and self.sink.reachable()

    def begin_turn(self) -> None:
        self.source.begin_turn()
        self.sink.begin_turn()

    def quiet(self) -> None:
        self.source.quiet()
        self.active = self.sink
        self.sink.quiet()
        self.active = self.source

    def rearm(self) -> bool:
        return self.source.rearm()

    def flush(self) -> None:
        self.active = self.sink
        self.sink.flush()
        if self.fill_count:
            count_batch(self.sink.batches, self.fill_count)
            self.fill_count = 0
        self.active = self.source
        self.source.flush()

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        self.active.fail(error)


class MediatedFlow:
    """One direction: from one driver's transmit queue to the other's receive queue."""

    def __init__(self, pair: QueuePair, copier: Copier) -> None:
        self.queue = pair
        self._copier = copier

    def move(self) -> tuple[int, Wait]:
        statistics = self._copier.statistics
        before = statistics.buffers
        moved, wait = self._move()
        filled = statistics.buffers - before
        self.queue.fill_count += filled
        # Publish sink chains even if only part of a source buffer fits: the driver then adds new ones.
        return moved or min(filled, 1), wait

    def _move(self) -> tuple[int, Wait]:
        pair, copy, statistics = self.queue, self._copier.copy, self._copier.statistics
        source, sink = pair.source.ring, pair.sink.ring
        if source is None or sink is None:
            return 0, QUEUE
        moved = 0
        enough = statistics.copied_bytes + BUDGET_BYTES
        while moved < BUDGET and statistics.copied_bytes < enough:
            chains = source.getdescs(min(CHUNK, BUDGET - moved))
            if not chains:
                return moved, QUEUE
            done: list[tuple[int, int]] = []
            try:
                pair.active = pair.sink
                copy(chains, sink, done)
                pair.active = pair.source
            finally:
                source.complete_each(done)
                source.abandon(len(chains) - len(done))
            moved += len(done)
            if len(done) < len(chains):
                return moved, self._wait_for_sink
        return moved, AGAIN

    async def _wait_for_sink(self, serve: Serve | None) -> None:
        """Wait for sink buffers. Not in place: the pump re-arms the source only."""
        pair = self.queue
        pair.active = pair.sink
        await wait_for_work(pair.sink)
        pair.active = pair.source


class MediatedEnd(VhostBound["Mediator"]):
    """One of the two devices of a mediator, which is its plug."""

    def __init__(self, device: VhostDevice, mediator: Mediator) -> None:
        super().__init__(device, mediator)
        self.running = False
        self._scope: trio.CancelScope | None = None
        self._changed = Signal()

    @property
    def usable(self) -> bool:
        """Whether the rings may be used: the device runs and does not need a reset."""
        return self.running and not self.device.status & Status.NEEDS_RESET

    def offer(self) -> None:
        self.plug.add(self)

    async def run(self) -> None:
        """Copy the buffers that this end's driver sends, while the other end runs too."""
        self.running = True
        self.plug.changed()
        try:
            while True:
                flow = self.plug.flow_from(self)
                if flow is None:
                    await self._changed.wait()
                    continue
                with trio.CancelScope() as self._scope:
                    await pump(flow, self.plug.settle, in_place=True)
                    await flow.queue.wait_ring()  # the flow ended on an error, or a queue was reset
                self._scope = None
        finally:
            self.running = False
            self._scope = None
            self.plug.changed()

    def restart(self) -> None:
        """Restart the flow, because an end started or stopped."""
        if self._scope is not None:
            self._scope.cancel()
        self._changed.set()

    def config_written(self, offset: int, data: bytes) -> None:
        self.plug.config_written(self, offset, data)

    async def close(self) -> None:
        self.plug.remove(self)


class Mediator(ABC):
    """Joins two devices of one type. A subclass per type defines the offer, the pairs of queues, and the copying."""

    def __init__(self) -> None:
        self.ends: list[MediatedEnd] = []
        self.liveness = Liveness()
        """Whether both ends ran at the last start or stop of one; `live` has that they need no reset since."""
        self.statistics: dict[str, MediatorStatistics] = {}

    def join(self, device: VhostDevice) -> MediatedEnd:
        """Return ``device`` as an end, which `VhostBound.offer` adds to this mediator."""
        return MediatedEnd(device, self)

    def add(self, end: MediatedEnd) -> None:
        """Make ``end`` one of the two ends. Raises ProbeDeferred while there are two already, ProbeError."""
        device = end.device
        if len(self.ends) == 2:
            raise ProbeDeferred(f"{device.name}: its mediator has two ends already")
        self.offer(device)
        self.ends.append(end)
        self.statistics.setdefault(device.name, MediatorStatistics())

    def remove(self, end: MediatedEnd) -> None:
        """Remove an end whose device was unbound."""
        self.ends.remove(end)

    @property
    def live(self) -> bool:
        """Whether both ends run, so that buffers are copied."""
        return len(self.ends) == 2 and all(end.usable for end in self.ends)

    def changed(self) -> None:
        """Restart both flows, after an end started or stopped."""
        for end in self.ends:
            end.restart()
            self.link_changed(end.device, self.live)
        self.liveness.set(self.live)

    def flow_from(self, end: MediatedEnd) -> MediatedFlow | None:
        """Return the flow whose source is ``end``, or None while the other end does not run."""
        other = next((e for e in self.ends if e is not end), None)
        if other is None or not other.usable:
            return None
        source, sink = self.queues(end.device, other.device)
        statistics = self.statistics[end.device.name]
        return MediatedFlow(QueuePair(source, sink), self.copier(end.device, other.device, statistics))

    @property
    def settle(self) -> Callable[[], Awaitable[None]] | None:
        """Function that sleeps until both links have carried the accesses so far; None if neither takes time."""
        links = [end.device.settle for end in self.ends if end.device.settle is not None]
        if not links:
            return None

        async def settle() -> None:
            for settle_link in links:
                await settle_link()

        return settle

    # Implemented by subclasses

    @abstractmethod
    def offer(self, device: VhostDevice) -> None:
        """Offer features, queues and configuration through ``device``."""

    @abstractmethod
    def queues(self, source: VhostDevice, sink: VhostDevice) -> tuple[DeviceQueue, DeviceQueue]:
        """Return the source driver's transmit queue and the sink driver's receive queue."""

    @abstractmethod
    def copier(self, source: VhostDevice, sink: VhostDevice, statistics: MediatorStatistics) -> Copier:
        """Return the copier for the features negotiated on each side."""

    def link_changed(self, device: VhostDevice, up: bool) -> None:
        """Show to the driver of ``device`` whether both ends run."""

    def config_written(self, end: MediatedEnd, offset: int, data: bytes) -> None:
        """Handle a driver's write to the configuration."""
