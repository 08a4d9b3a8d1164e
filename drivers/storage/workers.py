"""What would block is done by a fixed number of tasks on private buffers, whatever a driver asks for at once.

A store may use threads; memory of the driver's host is only touched here, between two awaits, and only while the
ring that the request came from is still there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import count

import attrs
import trio

from drivers.contracts.ports import SectorStore
from rings.chain import copy, copy_in, copy_out, skip, take

__all__ = ["PIECE", "Extent", "Job", "Kind", "Workers"]

JOBS = 4
"""Jobs after which a worker lets others run, whether or not the store did: the end of each may move a batch."""
PIECE = 1 << 20
"""Bytes of a worker's buffer: larger requests are done piece by piece."""
GATHER = 4 << 20
"""Bytes of the buffer for writes that are done together."""
GATHER_PARTS = 1024
"""Pieces of drivers' memory that are copied together: these cost time, however small they are."""


class Kind(Enum):
    """What a store can be asked for."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    WRITE_ZEROES = "write_zeroes"
    FILL = "fill"
    """Write one pattern again and again."""
    COMPARE = "compare"
    """Read, and compare with what a driver sent."""


@attrs.frozen
class Extent:
    """A range of the disk in bytes, and whether its blocks may be given up."""

    offset: int
    size: int
    unmap: bool = False


@attrs.define(eq=False)
class Job:
    """Something that waits for a worker, and what came of it."""

    kind: Kind
    store: SectorStore
    held: Callable[[], bool]
    """Whether the driver's memory may still be touched, and the rest is still wanted."""
    finished: Callable[[Sequence[Job]], None]
    """Told of all jobs of its own that ended together."""
    request: object = None
    """Whatever ``finished`` needs."""
    offset: int = 0
    """Bytes, as is ``size``."""
    size: int = 0
    data: Sequence[memoryview] = ()
    """What to write or to compare with, or where to put what is read."""
    extents: Sequence[Extent] = ()
    """Of DISCARD and WRITE_ZEROES."""
    pattern: bytes = b""
    """Of FILL: a private copy, whose size divides that of all and is at most `PIECE`."""
    stable: bool = False
    """Whether what is changed, or read, is on stable storage when it is done."""
    done: int = 0
    """Bytes that were moved before it came here, or are now."""
    error: OSError | None = None
    differs: int | None = None
    """Of COMPARE: how many bytes are equal before the first that is not."""

    @property
    def cause(self) -> str:
        """What went wrong, for who counts it."""
        return "" if self.error is None else self.error.strerror or "short"


class Workers:
    """The pool of one device, from DRIVER_OK to reset."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()  # rings bound both
        # One worker writes to a store at a time, and what comes meanwhile goes together then: a file system lets only
        # one write to a file anyway, and threads that take turns cost more than the copy.
        self._writes: dict[SectorStore, deque[Job]] = {}
        self._writing: set[SectorStore] = set()
        self._writes_first = False
        self._idle = trio.lowlevel.ParkingLot()
        # The one that was used last is taken first: it is in the cache.
        self._buffers: list[memoryview] = []
        self._gathers: list[memoryview] = []

    def submit(self, job: Job) -> None:
        if job.kind is Kind.WRITE:
            self._writes.setdefault(job.store, deque()).append(job)
        else:
            self._jobs.append(job)
        self._idle.unpark()

    def withdraw(self, jobs: Iterable[Job]) -> list[Job]:
        """Forget those jobs that no worker has begun, and return them; the others will finish by themselves."""
        wanted, found = set(jobs), []
        for queue in (self._jobs, *self._writes.values()):
            mine = [job for job in queue if job in wanted]
            if mine:
                found += mine
                kept = [job for job in queue if job not in wanted]
                queue.clear()
                queue.extend(kept)
        return found

    async def work(self) -> None:
        """One worker: serve jobs until cancelled, which waits for what the store has begun."""
        self._buffers.append(memoryview(bytearray(PIECE)))
        for turn in count(1):
            if not turn % JOBS:
                await trio.lowlevel.checkpoint()
            while not (jobs := self._next()):
                await self._idle.park()
            buffer = self._buffers.pop()
            try:
                if len(jobs) > 1:
                    await self._together(jobs)
                else:
                    await self._alone(jobs[0], buffer)
            except OSError:  # somebody's: each for itself, so that nobody fails for another
                for job in jobs:
                    await self._alone(job, buffer)
            self._buffers.append(buffer)
            if jobs[0].kind is Kind.WRITE:
                self._writing.discard(jobs[0].store)
                if self._writes:
                    self._idle.unpark()
            ended: dict[Callable[[Sequence[Job]], None], list[Job]] = {}
            for job in jobs:
                ended.setdefault(job.finished, []).append(job)
            for finished, theirs in ended.items():
                if len(ended) > 1:
                    await trio.lowlevel.checkpoint()  # each may move a batch of its queue
                finished(theirs)

    def _next(self) -> list[Job]:
        """The next job, or all writes to a store that wait, as far as they fit; nothing where none may be done now.

        Both in turn: however many of the one keep coming, the other goes on.
        """
        self._writes_first = not self._writes_first
        if self._writes_first:
            return self._next_writes() or self._next_job()
        return self._next_job() or self._next_writes()

    def _next_job(self) -> list[Job]:
        return [self._jobs.popleft()] if self._jobs else []

    def _next_writes(self) -> list[Job]:
        for store in [store for store in self._writes if store not in self._writing]:
            waiting = self._writes.pop(store)
            if waiting:
                self._writing.add(store)
                jobs = [waiting.popleft()]
                room, parts = GATHER - jobs[0].size, GATHER_PARTS - len(jobs[0].data)
                while waiting and waiting[0].size <= room and len(waiting[0].data) <= parts:
                    jobs.append(waiting.popleft())
                    room -= jobs[-1].size
                    parts -= len(jobs[-1].data)
                if waiting:
                    self._writes[store] = waiting  # behind other stores
                return jobs
        return []

    async def _together(self, jobs: list[Job]) -> None:
        """What lies side by side becomes one write, and all of them one turn of a thread.

        Raises OSError, and then nothing is known of any of them.
        """
        buffer = self._gathers.pop() if self._gathers else memoryview(bytearray(GATHER))
        try:
            parts: list[tuple[int, memoryview]] = []
            start = end = used = 0
            # Who overlaps two writes that are under way never knows which is last.
            for job in sorted((job for job in jobs if job.held()), key=_offset):
                part = _fetch(job, buffer[used:])
                if parts and job.offset + job.done == end:
                    parts[-1] = parts[-1][0], buffer[start : used + len(part)]
                else:
                    start = used
                    parts.append((job.offset + job.done, part))
                end, used = job.offset + job.done + len(part), used + len(part)
            store = jobs[0].store
            await store.write(parts)
            if any(job.stable for job in jobs):
                await store.flush()
        finally:
            self._gathers.append(buffer)
        for job in jobs:
            job.done = job.size

    async def _alone(self, job: Job, buffer: memoryview) -> None:
        if not job.held():
            return
        try:
            if job.stable and job.kind is Kind.READ:
                await job.store.flush()
            await _SERVE[job.kind](job, buffer)
            if job.stable and job.kind in _CHANGES:
                await job.store.flush()
        except OSError as error:
            # Not the one that was raised: its traceback holds frames, these the job, and that the driver's memory.
            job.error = OSError(error.errno, error.strerror)


async def _read(job: Job, buffer: memoryview) -> None:
    while job.done < job.size:
        part = buffer[: min(PIECE, job.size - job.done)]
        await job.store.read(part, job.offset + job.done)
        if not job.held():
            return
        copy_in(skip(job.data, job.done), part)
        job.done += len(part)
        await _between(job)


async def _write(job: Job, buffer: memoryview) -> None:
    while job.done < job.size and job.held():
        part = _fetch(job, buffer)
        await job.store.write([(job.offset + job.done, part)])
        job.done += len(part)
        await _between(job)


async def _flush(job: Job, buffer: memoryview) -> None:
    await job.store.flush()


async def _discard(job: Job, buffer: memoryview) -> None:
    for extent in job.extents:
        await job.store.discard(extent.offset, extent.size)


async def _write_zeroes(job: Job, buffer: memoryview) -> None:
    for extent in job.extents:
        await job.store.write_zeroes(extent.offset, extent.size, extent.unmap)


async def _fill(job: Job, buffer: memoryview) -> None:
    most = min(job.size, PIECE // len(job.pattern) * len(job.pattern))
    whole = buffer[:most]
    whole[:] = job.pattern * (most // len(job.pattern))
    while job.done < job.size and job.held():
        part = whole[: job.size - job.done]
        await job.store.write([(job.offset + job.done, part)])
        job.done += len(part)
        await _between(job)


async def _compare(job: Job, buffer: memoryview) -> None:
    """With the data, over and over where they are fewer than what is read."""
    whole = sum(map(len, job.data))
    while job.done < job.size:
        start = job.done % whole
        part = buffer[: min(PIECE, whole - start, job.size - job.done)]
        await job.store.read(part, job.offset + job.done)
        if not job.held():
            return
        wanted = copy_out(skip(job.data, start), len(part))
        found = bytes(part)
        if found != wanted:
            job.differs = job.done + _first_difference(found, wanted)
            return
        job.done += len(part)
        await _between(job)


async def _between(job: Job) -> None:
    """Let others run between two pieces of a job: a store in memory does not."""
    if job.done < job.size:
        await trio.lowlevel.checkpoint()


def _first_difference(one: bytes, other: bytes) -> int:
    """How many bytes at the start of both are equal; they differ. By halves: a loop takes 50 ms for 1 MiB."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _offset(job: Job) -> int:
    return job.offset


def _fetch(job: Job, buffer: memoryview) -> memoryview:
    """A private copy of what is still to be written, as much as goes into ``buffer``."""
    size = copy([buffer], take(skip(job.data, job.done), len(buffer)))
    return buffer[:size]


_SERVE: Mapping[Kind, Callable[[Job, memoryview], Awaitable[None]]] = {
    Kind.READ: _read,
    Kind.WRITE: _write,
    Kind.FLUSH: _flush,
    Kind.DISCARD: _discard,
    Kind.WRITE_ZEROES: _write_zeroes,
    Kind.FILL: _fill,
    Kind.COMPARE: _compare,
}
_CHANGES = frozenset((Kind.WRITE, Kind.DISCARD, Kind.WRITE_ZEROES, Kind.FILL))
