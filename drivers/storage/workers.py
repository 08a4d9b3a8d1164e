"""A fixed pool of tasks for store I/O that would block.

Workers use private buffers. A store may use threads; memory of the driver's host is touched only between two awaits,
and only while the request's ring is still there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import count
from typing import Generic, TypeVar

import attrs
import trio

from drivers.contracts.ports import SectorStore
from rings.chain import copy, copy_in, copy_out, skip, take, total

__all__ = ["PIECE", "StoreExtent", "Job", "IoKind", "Workers"]

JOBS = 4
"""Number of jobs after which a worker yields, even if the store did not: each completion may move a batch."""
PIECE = 1 << 20
"""Bytes of a worker's buffer. Larger requests are done in pieces."""
GATHER = 4 << 20
"""Bytes of the buffer for gathered writes."""
GATHER_PARTS = 1024
"""Maximum number of memory pieces in gathered writes: each costs time, however small."""
STATUS_MAX = 64
"""Maximum number of ranges of one STATUS."""


class IoKind(Enum):
    """Operations of a store."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    WRITE_ZEROES = "write_zeroes"
    ERASE = "erase"
    FILL = "fill"
    """Write one pattern repeatedly."""
    COMPARE = "compare"
    """Read, and compare with data of the driver."""
    COMPARE_AND_WRITE = "compare_and_write"
    """Compare with the first half of the data, and write the second half if they are equal."""
    STATUS = "status"
    """Find out which blocks are allocated."""


@attrs.frozen
class StoreExtent:
    """A range of the disk in bytes. ``unmap``: its blocks may be deallocated."""

    offset: int
    size: int
    unmap: bool = False


R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


@attrs.define(eq=False)
class Job(Generic[R_co]):
    """One store operation for a worker, and its result. ``R_co`` is the owner's type of a request."""

    kind: IoKind
    store: SectorStore
    wanted: Callable[[], bool]
    """Returns whether the driver's memory may still be touched and the result is still needed."""
    finished: Callable[[Sequence[Job[R_co]]], None]
    """Called with all jobs of the same owner that ended together."""
    request: R_co
    """Request that the job is for."""
    offset: int = 0
    """Bytes, as is ``size``."""
    size: int = 0
    data: Sequence[memoryview] = ()
    """Data to write or to compare, or room for data to read."""
    extents: Sequence[StoreExtent] = ()
    """Ranges of DISCARD, WRITE_ZEROES and ERASE, or the one of STATUS."""
    pattern: bytes = b""
    """Pattern of FILL: a private copy, whose size divides ``size`` and is at most `PIECE`."""
    stable: bool = False
    """Whether changed or read data must be on stable storage at the end."""
    done: int = 0
    """Bytes moved, including those moved before the job was submitted."""
    error: OSError | None = None
    differs: int | None = None
    """Result of COMPARE and COMPARE_AND_WRITE: number of equal bytes before the first difference."""
    render: Callable[[Sequence[tuple[int, int, bool]]], bytes] | None = None
    """Returns the data of STATUS for the ranges that `SectorStore.extents` returned."""

    @property
    def cause(self) -> str:
        """Name of the error, for counters."""
        return "" if self.error is None else self.error.strerror or "short"


class Workers:
    """The worker pool of one device, from DRIVER_OK to reset."""

    def __init__(self) -> None:
        self._jobs: deque[Job[object]] = deque()  # bounded by the rings, as is _writes
        # Only one worker writes to a store at a time, and the writes that arrive meanwhile are gathered: a file system
        # serializes writes to a file anyway, and threads that take turns cost more than the copy.
        self._writes: dict[SectorStore, deque[Job[object]]] = {}
        self._busy_stores: set[SectorStore] = set()
        self._changes: Counter[SectorStore] = Counter()  # changes under way that are no writes
        self._exclusive: Counter[SectorStore] = Counter()  # compare-and-writes that have not ended
        self._writes_first = False
        self._idle = trio.lowlevel.ParkingLot()
        # Last in, first out: the most recently used buffer is in the cache.
        self._buffers: list[memoryview] = []
        self._gathers: list[memoryview] = []

    def excludes(self, store: SectorStore) -> bool:
        """Return whether a compare-and-write of the store waits or is under way, so that writes must be submitted."""
        return store in self._exclusive

    def submit(self, job: Job[object]) -> None:
        if job.kind is IoKind.COMPARE_AND_WRITE:
            self._exclusive[job.store] += 1
        if job.kind in _ONE_BY_ONE:
            self._writes.setdefault(job.store, deque()).append(job)
        else:
            self._jobs.append(job)
        self._idle.unpark()

    def withdraw(self, jobs: Iterable[Job[R]]) -> list[Job[R]]:
        """Remove those of the jobs that no worker has begun, and return them. The others finish normally."""
        withdrawn: dict[Job[object], Job[R]] = {job: job for job in jobs}
        removed: list[Job[R]] = []
        for queue in (self._jobs, *self._writes.values()):
            matches = [withdrawn[job] for job in queue if job in withdrawn]
            if matches:
                removed += matches
                kept = [job for job in queue if job not in withdrawn]
                queue.clear()
                queue.extend(kept)
        for job in removed:
            self._admit_changes(job)
        return removed

    async def work(self) -> None:
        """Serve jobs until cancelled. Cancellation waits for the store operation in progress."""
        self._buffers.append(memoryview(bytearray(PIECE)))
        for turn in count(1):
            if not turn % JOBS:
                await trio.lowlevel.checkpoint()
            while not (jobs := self._next()):
                await self._idle.park()
            buffer = self._buffers.pop()
            try:
                if len(jobs) > 1:
                    await self._write_gathered(jobs)
                else:
                    await self._run_one(jobs[0], buffer)
            except OSError:  # one of the writes failed: repeat them one by one, so that only the culprit fails
                for job in jobs:
                    await self._run_one(job, buffer)
            self._buffers.append(buffer)
            self._release(jobs[0])
            ended: dict[Callable[[Sequence[Job[object]]], None], list[Job[object]]] = {}
            for job in jobs:
                ended.setdefault(job.finished, []).append(job)
            for finished, group in ended.items():
                if len(ended) > 1:
                    await trio.lowlevel.checkpoint()  # each may move a batch of its queue
                finished(group)

    def _release(self, job: Job[object]) -> None:
        """Let the jobs begin that waited for the end of ``job``."""
        kind, store = job.kind, job.store
        if kind in _ONE_BY_ONE:
            self._busy_stores.discard(store)
            if self._writes:
                self._idle.unpark()
            self._admit_changes(job)
        elif kind in _CHANGES:
            self._changes[store] -= 1
            if not self._changes[store]:
                del self._changes[store]
                if store in self._exclusive:
                    self._idle.unpark()

    def _admit_changes(self, job: Job[object]) -> None:
        """Let changes of the store begin again after the last compare-and-write."""
        if job.kind is IoKind.COMPARE_AND_WRITE:
            self._exclusive[job.store] -= 1
            if not self._exclusive[job.store]:
                del self._exclusive[job.store]
                self._idle.unpark_all()

    def _next(self) -> list[Job[object]]:
        """Return the next job, or all writes waiting for one store that fit; empty if there is nothing to do.

        Jobs and writes alternate, so that neither starves the other.
        """
        self._writes_first = not self._writes_first
        if self._writes_first:
            return self._next_writes() or self._next_job()
        return self._next_job() or self._next_writes()

    def _next_job(self) -> list[Job[object]]:
        for at, job in enumerate(self._jobs):
            changes = job.kind in _CHANGES
            if changes and job.store in self._exclusive:
                continue  # it waits for a compare-and-write, which nothing may change anything under
            del self._jobs[at]
            if changes:
                self._changes[job.store] += 1
            return [job]
        return []

    def _next_writes(self) -> list[Job[object]]:
        for store in [store for store in self._writes if store not in self._busy_stores]:
            waiting = self._writes.pop(store)
            if waiting and waiting[0].kind is IoKind.COMPARE_AND_WRITE and self._changes[store]:
                self._writes[store] = waiting  # until those changes have ended
                continue
            if waiting:
                self._busy_stores.add(store)
                jobs = _take_first(waiting)
                if waiting:
                    self._writes[store] = waiting  # behind other stores
                return jobs
        return []

    async def _write_gathered(self, jobs: list[Job[object]]) -> None:
        """Write all jobs in one call to the store, adjacent ones as one range.

        Raises OSError; the result of every job is unknown then.
        """
        buffer = self._gathers.pop() if self._gathers else memoryview(bytearray(GATHER))
        try:
            parts: list[tuple[int, memoryview]] = []
            start = end = used = 0
            # Sorting is allowed: the order of overlapping writes in flight is undefined.
            for job in sorted((job for job in jobs if job.wanted()), key=_offset):
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

    async def _run_one(self, job: Job[object], buffer: memoryview) -> None:
        if not job.wanted():
            return
        try:
            if job.stable and job.kind is IoKind.READ:
                await job.store.flush()
            await _SERVE[job.kind](job, buffer)
            if job.stable and job.kind in _CHANGES:
                await job.store.flush()
        except OSError as error:
            # A copy: the original's traceback holds frames, these the job, and the job the driver's memory.
            job.error = OSError(error.errno, error.strerror)


def _take_first(waiting: deque[Job[object]]) -> list[Job[object]]:
    """Take the first of the jobs that wait for a store and, if it is a write, the writes next to it that fit."""
    jobs = [waiting.popleft()]
    if jobs[0].kind is not IoKind.WRITE:
        return jobs
    room, parts = GATHER - jobs[0].size, GATHER_PARTS - len(jobs[0].data)
    while waiting and waiting[0].kind is IoKind.WRITE and waiting[0].size <= room and len(waiting[0].data) <= parts:
        jobs.append(waiting.popleft())
        room -= jobs[-1].size
        parts -= len(jobs[-1].data)
    return jobs


async def _read(job: Job[object], buffer: memoryview) -> None:
    while job.done < job.size:
        part = buffer[: min(PIECE, job.size - job.done)]
        await job.store.read(part, job.offset + job.done)
        if not job.wanted():
            return
        copy_in(skip(job.data, job.done), part)
        job.done += len(part)
        await _yield_between(job)


async def _write(job: Job[object], buffer: memoryview) -> None:
    while job.done < job.size and job.wanted():
        part = _fetch(job, buffer)
        await job.store.write([(job.offset + job.done, part)])
        job.done += len(part)
        await _yield_between(job)


async def _flush(job: Job[object], buffer: memoryview) -> None:
    await job.store.flush()


async def _discard(job: Job[object], buffer: memoryview) -> None:
    for extent in job.extents:
        await job.store.discard(extent.offset, extent.size)


async def _write_zeroes(job: Job[object], buffer: memoryview) -> None:
    for extent in job.extents:
        await job.store.write_zeroes(extent.offset, extent.size, extent.unmap)


async def _erase(job: Job[object], buffer: memoryview) -> None:
    for extent in job.extents:
        await job.store.erase(extent.offset, extent.size)


async def _fill(job: Job[object], buffer: memoryview) -> None:
    size = min(job.size, PIECE // len(job.pattern) * len(job.pattern))
    whole = buffer[:size]
    whole[:] = job.pattern * (size // len(job.pattern))
    while job.done < job.size and job.wanted():
        part = whole[: job.size - job.done]
        await job.store.write([(job.offset + job.done, part)])
        job.done += len(part)
        await _yield_between(job)


async def _compare(job: Job[object], buffer: memoryview) -> None:
    """Compare with the data, repeated if it is shorter than the range."""
    whole = sum(map(len, job.data))
    while job.done < job.size:
        start = job.done % whole
        part = buffer[: min(PIECE, whole - start, job.size - job.done)]
        await job.store.read(part, job.offset + job.done)
        if not job.wanted():
            return
        expected = copy_out(skip(job.data, start), len(part))
        actual = bytes(part)
        if actual != expected:
            job.differs = job.done + _first_difference(actual, expected)
            return
        job.done += len(part)
        await _yield_between(job)


async def _compare_and_write(job: Job[object], buffer: memoryview) -> None:
    """Compare and write. No other write to the store is under way: see `Workers.excludes`."""
    both = copy_out(job.data, 2 * job.size)
    part = buffer[: job.size]
    await job.store.read(part, job.offset)
    actual, expected = bytes(part), both[: job.size]
    if actual != expected:
        job.differs = _first_difference(actual, expected)
    elif job.wanted():
        await job.store.write([(job.offset, memoryview(both)[job.size :])])
        job.done = job.size


async def _status(job: Job[object], buffer: memoryview) -> None:
    assert job.render is not None
    (extent,) = job.extents
    data = job.render(await job.store.extents(extent.offset, extent.size, STATUS_MAX))
    if job.wanted():
        job.done = copy_in(job.data, data[: total(job.data)])


async def _yield_between(job: Job[object]) -> None:
    """Yield between two pieces of a job, because a store in memory does not."""
    if job.done < job.size:
        await trio.lowlevel.checkpoint()


def _first_difference(one: bytes, other: bytes) -> int:
    """Return the number of equal bytes before the first difference. Bisects: a loop takes 50 ms for 1 MiB."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _offset(job: Job[object]) -> int:
    return job.offset


def _fetch(job: Job[object], buffer: memoryview) -> memoryview:
    """Copy unwritten data into ``buffer``, as much as fits. Returns the filled part."""
    size = copy([buffer], take(skip(job.data, job.done), len(buffer)))
    return buffer[:size]


_SERVE: Mapping[IoKind, Callable[[Job[object], memoryview], Awaitable[None]]] = {
    IoKind.READ: _read,
    IoKind.WRITE: _write,
    IoKind.FLUSH: _flush,
    IoKind.DISCARD: _discard,
    IoKind.WRITE_ZEROES: _write_zeroes,
    IoKind.ERASE: _erase,
    IoKind.FILL: _fill,
    IoKind.COMPARE: _compare,
    IoKind.COMPARE_AND_WRITE: _compare_and_write,
    IoKind.STATUS: _status,
}
_ONE_BY_ONE = frozenset((IoKind.WRITE, IoKind.COMPARE_AND_WRITE))
"""Operations of which a store has one under way at a time."""
_CHANGES = frozenset((*_ONE_BY_ONE, IoKind.DISCARD, IoKind.WRITE_ZEROES, IoKind.ERASE, IoKind.FILL))
