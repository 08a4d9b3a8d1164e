"""The mediated design: an endpoint has an ordinary virtio device for its own driver, and a mediator joins it to the
device that the other host drives.

Both are devices, so both ends are vringhs: what one driver makes available for sending is copied, once, into what
the other made available for receiving. A device type says how a buffer is copied; the rest is the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from drivers.bus.vhost import DeviceQueue, VhostDevice
from drivers.errors import ProbeDeferred
from drivers.flow.pump import Need, Signal, count_batch, pump, wait_for_notification
from rings.chain import Chain
from rings.errors import MemoryFault, RemoteRingError
from rings.queue import Vringh
from rings.status import Status

__all__ = ["Copier", "MediatedEnd", "Mediator", "MediatorStatistics", "QueuePair"]

BUDGET = 64
BUDGET_BYTES = 1 << 19
CHUNK = 32
"""Chains taken from the source at a time."""


@attrs.define
class MediatorStatistics:
    """What one direction copied since the mediator exists."""

    buffers: int = 0
    payload_bytes: int = 0
    """Bytes that had to cross, headers included."""
    copied_bytes: int = 0
    """Bytes that were copied: the same number, since each is copied once."""
    drops: dict[str, int] = attrs.field(factory=dict)

    def drop(self, cause: str) -> None:
        self.drops[cause] = self.drops.get(cause, 0) + 1

    def count_copies(self, buffers: int, size: int) -> None:
        """So many buffers, of ``size`` bytes in all, were copied as they are."""
        self.buffers += buffers
        self.payload_bytes += size
        self.copied_bytes += size

    def count(self, copied: int, size: int, cause: str) -> None:
        """A buffer of ``size`` bytes crossed in ``copied``; or, where nothing was copied, it was dropped."""
        if copied:
            self.buffers += 1
            self.payload_bytes += size
            self.copied_bytes += copied
        else:
            self.drop(cause)


class Copier(ABC):
    """How one device type's buffers get from one ring to another."""

    def __init__(self, statistics: MediatorStatistics) -> None:
        self.statistics = statistics

    def copy(self, chains: Sequence[Chain], sink: Vringh, done: list[tuple[int, int]]) -> None:
        """Copy buffers from the front of ``chains`` into others taken from ``sink``, complete these, and count.

        What is over with goes to ``done``, with the number of bytes written. It ends early where too few chains
        are there to receive into, and is called again with the same buffer.
        """
        for head, readable, writable in chains:
            if writable:
                self.statistics.drop("writable")
            elif not self.copy_one(readable, sink):
                return
            done.append((head, 0))

    @abstractmethod
    def copy_one(self, source: Sequence[memoryview], sink: Vringh) -> bool:
        """The same for one buffer; False when too few chains are there."""


class QueuePair:
    """A source's and a sink's queue as the pump's one: both are published, the source is waited for."""

    def __init__(self, source: DeviceQueue, sink: DeviceQueue) -> None:
        self.source = source
        self.sink = sink
        self.batches = source.batches
        self.fill_count = 0
        """Buffers that were filled for the sink, and not shown to it yet."""
        self.active = source
        """Whose ring is being looked at: it is to blame for what is found there."""

    @property
    def live(self) -> bool:
        return self.source.live and self.sink.live

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
    """One direction: from what one driver sends to what the other receives into."""

    def __init__(self, pair: QueuePair, copier: Copier) -> None:
        self.queue = pair
        self._copier = copier

    def move(self) -> tuple[int, Need]:
        statistics = self._copier.statistics
        before = statistics.buffers
        moved, need = self._move()
        filled = statistics.buffers - before
        self.queue.fill_count += filled
        # What a part of a buffer went into has to be shown, too: the driver makes new buffers of those.
        return moved or min(filled, 1), need

    def _move(self) -> tuple[int, Need]:
        pair, copy, statistics = self.queue, self._copier.copy, self._copier.statistics
        source, sink = pair.source.ring, pair.sink.ring
        if source is None or sink is None:
            return 0, Need.QUEUE
        moved = 0
        enough = statistics.copied_bytes + BUDGET_BYTES
        while moved < BUDGET and statistics.copied_bytes < enough:
            chains = source.getdescs(min(CHUNK, BUDGET - moved))
            if not chains:
                return moved, Need.QUEUE
            done: list[tuple[int, int]] = []
            try:
                pair.active = pair.sink
                copy(chains, sink, done)
                pair.active = pair.source
            finally:
                source.complete_each(done)
                for head, _, _ in reversed(chains[len(done) :]):
                    source.abandon(head)
            moved += len(done)
            if len(done) < len(chains):
                return moved, Need.SINK
        return moved, Need.TURN

    async def wait(self, need: Need) -> None:
        """Wait for buffers to receive into."""
        pair = self.queue
        pair.active = sink = pair.sink
        if sink.rearm():
            await trio.lowlevel.checkpoint()
        else:
            await wait_for_notification(sink)
        pair.active = pair.source

    def on_port_gone(self, error: Exception) -> None:
        """There is no port here."""


class MediatedEnd:
    """One of the two devices of a mediator, as its bus sees it."""

    def __init__(self, mediator: Mediator, device: VhostDevice) -> None:
        self.device = device
        self.running = False
        self._mediator = mediator
        self._scope: trio.CancelScope | None = None
        self._changed = Signal()

    @property
    def usable(self) -> bool:
        """Whether its rings may be used: not those of a device that waits to be reset."""
        return self.running and not self.device.status & Status.NEEDS_RESET

    async def run(self) -> None:
        """Copy what this end's driver sends, while the other end runs too."""
        self.running = True
        self._mediator.changed()
        try:
            while True:
                flow = self._mediator.flow_from(self)
                if flow is None:
                    await self._changed.wait()
                    continue
                with trio.CancelScope() as self._scope:
                    await pump(flow, self._mediator.settle, in_place=True)
                    await trio.sleep_forever()  # broken until one of the two is reset
                self._scope = None
        finally:
            self.running = False
            self._scope = None
            self._mediator.changed()

    def other_changed(self) -> None:
        """The other end came or went: what runs now has to start anew."""
        if self._scope is not None:
            self._scope.cancel()
        self._changed.set()

    def config_written(self, offset: int, data: bytes) -> None:
        self._mediator.config_written(self, offset, data)

    async def close(self) -> None:
        self._mediator.remove(self)


class Mediator:
    """Joins two devices of one type. Subclasses know the type: what to offer, which queues cross, how to copy."""

    def __init__(self) -> None:
        self.ends: list[MediatedEnd] = []
        self.statistics: dict[str, MediatorStatistics] = {}

    def join(self, device: VhostDevice) -> MediatedEnd:
        """Make ``device`` one of the two ends. Raises ProbeDeferred while there are two already."""
        if len(self.ends) == 2:
            raise ProbeDeferred(f"{device.name}: its mediator has two ends already")
        self.offer(device)
        end = MediatedEnd(self, device)
        self.ends.append(end)
        self.statistics.setdefault(device.name, MediatorStatistics())
        return end

    def remove(self, end: MediatedEnd) -> None:
        self.ends.remove(end)

    @property
    def live(self) -> bool:
        """Whether both ends run, so that buffers cross."""
        return len(self.ends) == 2 and all(end.usable for end in self.ends)

    def changed(self) -> None:
        """An end started or stopped."""
        for end in self.ends:
            end.other_changed()
            self.link_changed(end.device, self.live)

    def flow_from(self, end: MediatedEnd) -> MediatedFlow | None:
        """The direction whose source is ``end``; None while the other end does not run."""
        other = next((e for e in self.ends if e is not end), None)
        if other is None or not other.usable:
            return None
        source, sink = self.queues(end.device, other.device)
        statistics = self.statistics[end.device.name]
        return MediatedFlow(QueuePair(source, sink), self.copier(end.device, other.device, statistics))

    @property
    def settle(self) -> Callable[[], Awaitable[None]] | None:
        """Sleeps out what either side's link is owed; None where neither takes time."""
        owed = [end.device.settle for end in self.ends if end.device.settle is not None]
        if not owed:
            return None

        async def settle() -> None:
            for pay in owed:
                await pay()

        return settle

    # For subclasses

    def offer(self, device: VhostDevice) -> None:
        raise NotImplementedError

    def queues(self, source: VhostDevice, sink: VhostDevice) -> tuple[DeviceQueue, DeviceQueue]:
        """What the source's driver sends from, and what the sink's driver receives into."""
        raise NotImplementedError

    def copier(self, source: VhostDevice, sink: VhostDevice, statistics: MediatorStatistics) -> Copier:
        """For the features that each side agreed on."""
        raise NotImplementedError

    def link_changed(self, device: VhostDevice, up: bool) -> None:
        """Both ends run now, or one does not any more."""

    def config_written(self, end: MediatedEnd, offset: int, data: bytes) -> None:
        """A driver wrote configuration."""
