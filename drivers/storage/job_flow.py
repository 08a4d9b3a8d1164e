"""A request queue of a device: each request is done at once or by a worker, and answered in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from drivers.bus.vhost import DeviceQueue
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import AGAIN, END, QUEUE, Wait, pump
from drivers.storage.workers import Job, Workers
from rings.chain import Chain
from rings.queue import Vringh

__all__ = ["JobFlow"]

BUDGET = 64
"""Maximum requests per batch."""
TAKEN = 16
"""Maximum requests taken from the ring at a time; one, while they are large: few of them fit a batch."""
BUDGET_BYTES = 1 << 20
"""Maximum bytes per batch."""
UNIT = 16 << 10
"""Bytes whose copy costs about as much as processing a descriptor."""
AT_ONCE = 2 << 20
"""Maximum bytes of a request that is done at once; workers do larger ones in pieces."""


R = TypeVar("R")


class JobFlow(ABC, Generic[R]):
    """One queue, from DRIVER_OK to reset. A device type implements `begin` and `end`; ``R`` is its request."""

    def __init__(self, queue: DeviceQueue, workers: Workers, figures: RequestFigures) -> None:
        self.queue = queue
        self.figures = figures
        self._workers = workers
        self._ring = queue.ring
        self._results: deque[Job[R]] = deque()
        self._in_progress = 0
        self._completed: list[tuple[int, int]] = []
        self._limit = TAKEN
        self.serving = False
        """Whether the flow takes requests: from the start of the ring until it stops or breaks."""

    # Implemented by each device type.

    @abstractmethod
    def begin(self, chain: Chain) -> int:
        """Answer a request or submit a job for it. Returns the bytes that it moves. Raises BadChain."""

    @abstractmethod
    def end(self, job: Job[R]) -> None:
        """Answer the request of a completed job."""

    # Common to all.

    async def run(self, settle: Callable[[], Awaitable[None]] | None) -> None:
        """Serve the queue. If the ring breaks, still answer the requests taken from it: it gives no more."""
        self.serving = True
        try:
            try:
                await pump(self, settle, in_place=True)
            finally:
                self.stop()
            if self.attached():
                await pump(self, settle, in_place=True)
        finally:
            self._results.clear()  # jobs hold views of the driver's memory, and each other

    def stop(self) -> None:
        """Take no more requests."""
        self.serving = False

    def attached(self) -> bool:
        """Return whether the requests' ring is still there and reachable; else their memory must not be touched."""
        return self._ring is not None and self.queue.ring is self._ring and self._ring.reachable()

    def move(self) -> tuple[int, Wait]:
        ring = self._ring
        if ring is None or self.queue.ring is not ring:
            return 0, QUEUE
        if not self.serving and not (self._in_progress and self.attached()):
            return 0, END
        try:
            moved, size = self._answer_results(), 0
            while moved < BUDGET and size < BUDGET_BYTES:
                chains = ring.getdescs(min(self._limit, BUDGET - moved))
                if not chains:
                    return moved, QUEUE
                count, begun = self._begin_each(ring, chains)
                moved += count
                size += begun
            return moved, AGAIN
        finally:
            if self._completed:
                completed, self._completed = self._completed, []
                ring.complete_each(completed)

    def _begin_each(self, ring: Vringh, chains: Sequence[Chain]) -> tuple[int, int]:
        """Begin requests until one is large; put the chains behind that back. Returns requests and bytes begun."""
        begin, size, count, self._limit = self.begin, 0, 0, TAKEN
        try:
            for chain in chains:
                count += 1
                done = begin(chain)
                size += done
                if done >= UNIT:
                    ring.spend(done // UNIT)
                    self._limit = 1
                    break
        finally:
            if count < len(chains):
                ring.abandon(len(chains) - count)
        return count, size

    def complete(self, head: int, written: int) -> None:
        """Mark a chain as used, with ``written`` bytes, at the end of this batch."""
        self._completed.append((head, written))

    def submit_job(self, job: Job[R]) -> None:
        """Submit a job to the workers."""
        self._in_progress += 1
        self.figures.queued += 1
        self._workers.submit(job)

    def on_finished(self, jobs: Sequence[Job[R]]) -> None:
        """Answer jobs that workers have completed."""
        if self.attached():
            self._results.extend(jobs)
            self.queue.signal.set()

    def on_withdrawn(self, jobs: Sequence[Job[R]]) -> None:
        """Answer jobs that no worker has begun, in this flow's own task."""
        if self.attached():
            self._results.extend(jobs)
            self.queue.signal.wake()

    def _answer_results(self) -> int:
        """Answer a batch of ended jobs. Returns their number."""
        count = min(len(self._results), BUDGET)
        for _ in range(count):
            job = self._results.popleft()
            self._in_progress -= 1
            self.end(job)
        return count
