"""A queue of requests at the device's side: each is done at once, or by a worker, and answered in any order."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from drivers.bus.vhost import DeviceQueue
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import Need, QueueFlow, pump
from drivers.storage.workers import Job, Workers
from rings.chain import Chain
from rings.queue import Vringh

__all__ = ["JobFlow"]

BUDGET = 64
"""Requests per batch."""
BUDGET_BYTES = 1 << 20
"""Bytes per batch."""
UNIT = 16 << 10
"""Bytes whose copy costs about what a descriptor does."""
AT_ONCE = 2 << 20
"""Bytes of the largest request that is done at once: a worker does a larger one piece by piece."""


class JobFlow(QueueFlow):
    """One queue, from DRIVER_OK to reset. A device type says what a chain asks for, and how a job is answered."""

    def __init__(self, queue: DeviceQueue, workers: Workers, figures: RequestFigures) -> None:
        self.queue = queue
        self.figures = figures
        self._workers = workers
        self._ring = queue.ring
        self._ended: deque[Job] = deque()
        self._working = 0
        self.serving = False
        """Whether requests are taken: since the ring began, and until it ends or breaks."""

    # What each device type says.

    def begin(self, ring: Vringh, chain: Chain) -> int:
        """Answer a request, or have somebody do it; the bytes that it moves. Raises BadChain."""
        raise NotImplementedError

    def end(self, ring: Vringh, job: Job) -> None:
        """Answer what a worker did."""
        raise NotImplementedError

    # What they have in common.

    async def run(self, settle: Callable[[], Awaitable[None]] | None) -> None:
        """Serve the queue; one that breaks still gets back what was taken from it."""
        self.serving = True
        try:
            try:
                await pump(self, settle, in_place=True)
            finally:
                self.served()
            while self._working and self.held():
                if not self._ended:
                    await self.queue.signal.wait()
                if self.held() and self._give_back():
                    if settle is not None:
                        await settle()
                    if self.held():
                        self.queue.flush()
                    await trio.lowlevel.checkpoint()
        finally:
            self._ended.clear()  # they hold the driver's memory, and each other

    def served(self) -> None:
        """Take no more requests."""
        self.serving = False

    def held(self) -> bool:
        """Whether ring and buffers are those the requests came from, and still there: nothing else is touched."""
        return self._ring is not None and self.queue.ring is self._ring and self._ring.reachable()

    def move(self) -> tuple[int, Need]:
        ring = self._ring
        if ring is None or self.queue.ring is not ring:
            return 0, Need.QUEUE
        moved, size = self._give_back(), 0
        begin = self.begin
        while moved < BUDGET and size < BUDGET_BYTES:
            chain = ring.getdesc()
            if chain is None:
                return moved, Need.QUEUE
            moved += 1
            done = begin(ring, chain)
            size += done
            if done >= UNIT:
                ring.spend(done // UNIT)
        return moved, Need.TURN

    def hand_over(self, job: Job) -> None:
        """Have a worker do it."""
        self._working += 1
        self.figures.queued += 1
        self._workers.submit(job)

    def finished(self, jobs: Sequence[Job]) -> None:
        """Answer jobs that workers completed."""
        if self.held():
            self._ended.extend(jobs)
            self.queue.signal.set()

    def withdrawn(self, jobs: Sequence[Job]) -> None:
        """Answer jobs that no worker began, in this flow's own task."""
        if self.held():
            self._ended.extend(jobs)
            self.queue.signal.wake()

    def _give_back(self) -> int:
        """Answer a batch of what workers are done with; how many."""
        count = min(len(self._ended), BUDGET)
        for _ in range(count):
            job = self._ended.popleft()
            self._working -= 1
            assert self._ring is not None
            self.end(self._ring, job)
        return count
