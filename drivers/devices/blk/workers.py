"""What would block is done by a fixed number of tasks on private buffers, whatever a driver asks for at once.

A store may use threads; memory of the driver's host is only touched here, between two awaits, and only while the
ring that the request came from is still there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

import attrs
import trio

from drivers.devices.blk.layout import BlkStatus, RequestType
from drivers.devices.blk.request import Request
from drivers.ports import SectorStore
from rings.chain import copy, copy_in, skip, take

__all__ = ["PIECE", "Job", "Workers"]

PIECE = 1 << 20
"""Bytes of a worker's buffer: larger requests are done piece by piece."""


@attrs.define(eq=False)
class Job:
    """A request that waits for a worker, and what came of it."""

    request: Request
    held: Callable[[], bool]
    """Whether the driver's memory may still be touched."""
    finished: Callable[[Job], None]
    done: int = 0
    """Bytes that were moved before it came here, or are now."""
    status: BlkStatus = BlkStatus.OK
    cause: str = ""


class Workers:
    """The pool of one device, from DRIVER_OK to reset."""

    def __init__(self, store: SectorStore, *, writethrough: bool) -> None:
        self.writethrough = writethrough
        """Whether a write is on stable storage when it is answered."""
        self._store = store
        self._jobs: deque[Job] = deque()  # rings bound both
        # One worker writes at a time, and what comes meanwhile goes together then: a file system lets only one write
        # to a file anyway, and threads that take turns cost more than the copy.
        self._writes: deque[Job] = deque()
        self._writing = False
        self._idle = trio.lowlevel.ParkingLot()
        self._buffers: list[memoryview] = []  # the one that was used last is taken first: it is in the cache

    def submit(self, job: Job) -> None:
        (self._writes if job.request.kind == RequestType.OUT else self._jobs).append(job)
        self._idle.unpark()

    async def work(self) -> None:
        """One worker: serve jobs until cancelled, which waits for what the store has begun."""
        self._buffers.append(memoryview(bytearray(PIECE)))
        while True:
            while not (jobs := self._next()):
                await self._idle.park()
            buffer = self._buffers.pop()
            try:
                await self._together(jobs, buffer)
            except OSError:  # somebody's: each for itself, so that nobody fails for another
                for job in jobs:
                    await self._alone(job, buffer)
            self._buffers.append(buffer)
            if jobs[0].request.kind == RequestType.OUT:
                self._writing = False
                if self._writes:
                    self._idle.unpark()
            for job in jobs:
                job.finished(job)

    def _next(self) -> list[Job]:
        """The next job, or all writes that wait, as far as they fit; nothing where none may be done now."""
        if self._jobs:
            return [self._jobs.popleft()]
        if self._writing or not self._writes:
            return []
        self._writing = True
        jobs = [self._writes.popleft()]
        room = PIECE - jobs[0].request.size
        while self._writes and self._writes[0].request.size <= room:
            jobs.append(self._writes.popleft())
            room -= jobs[-1].request.size
        return jobs

    async def _together(self, jobs: list[Job], buffer: memoryview) -> None:
        """Raises OSError, and then nothing is known of any of them."""
        if len(jobs) == 1:
            await self._alone(jobs[0], buffer)
            return
        parts: list[tuple[int, memoryview]] = []
        used = 0
        for job in jobs:
            if job.held():
                part = _fetch(job, buffer[used:])
                parts.append((job.request.offset + job.done, part))
                used += len(part)
        await self._store.write(parts)
        if self.writethrough:
            await self._store.flush()
        for job in jobs:
            job.done = job.request.size

    async def _alone(self, job: Job, buffer: memoryview) -> None:
        try:
            await self._SERVE[job.request.kind](self, job, buffer)
            if self.writethrough and job.request.kind in _CHANGES:
                await self._store.flush()
        except OSError as error:
            job.status, job.cause = BlkStatus.IOERR, error.strerror or "short"

    async def _read(self, job: Job, buffer: memoryview) -> None:
        request = job.request
        while job.done < request.size:
            part = buffer[: min(PIECE, request.size - job.done)]
            await self._store.read(part, request.offset + job.done)
            if not job.held():
                return
            copy_in(skip(request.data, job.done), part)
            job.done += len(part)

    async def _write(self, job: Job, buffer: memoryview) -> None:
        request = job.request
        while job.done < request.size and job.held():
            part = _fetch(job, buffer)
            await self._store.write([(request.offset + job.done, part)])
            job.done += len(part)

    async def _flush(self, job: Job, buffer: memoryview) -> None:
        await self._store.flush()

    async def _discard(self, job: Job, buffer: memoryview) -> None:
        for extent in job.request.extents:
            await self._store.discard(extent.offset, extent.size)

    async def _write_zeroes(self, job: Job, buffer: memoryview) -> None:
        for extent in job.request.extents:
            await self._store.write_zeroes(extent.offset, extent.size, extent.unmap)

    _SERVE: ClassVar[Mapping[int, Callable[[Workers, Job, memoryview], Awaitable[None]]]] = {
        RequestType.IN: _read,
        RequestType.OUT: _write,
        RequestType.FLUSH: _flush,
        RequestType.DISCARD: _discard,
        RequestType.WRITE_ZEROES: _write_zeroes,
    }


_CHANGES = frozenset((RequestType.OUT, RequestType.DISCARD, RequestType.WRITE_ZEROES))


def _fetch(job: Job, buffer: memoryview) -> memoryview:
    """A private copy of what is still to be written, as much as goes into ``buffer``."""
    size = copy([buffer], take(skip(job.request.data, job.done), len(buffer)))
    return buffer[:size]
