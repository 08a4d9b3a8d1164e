"""Requests that survive device resets: callers see latency, not errors.

Requests wait while no queue has room. `kick` notifies the device once for many. Requests that the device did not answer
before it went away are sent again; after a time without device, they fail.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import trio

from drivers.contracts.hw import DmaMemory
from drivers.contracts.liveness import Liveness
from drivers.errors import TransportLost
from drivers.flow.figures import RequestFigures
from drivers.storage.bounce import Buffer, BufferPool
from rings.chain import copy_in, copy_out

__all__ = ["BUFFERS", "PATIENCE", "SubmissionQueue", "Submission", "Submitter"]

PATIENCE = 30.0
"""Seconds that a request may wait for a lost device."""
REMOVED = "the device was removed"
BUFFERS = 32 << 20
"""Bytes of memory for request data."""


class Submission(Protocol):
    """A request, as the submitter sees it."""

    buffer: Buffer | None
    """Memory of the request's data."""
    serial: int
    """Number in the order of submission."""
    deadline: float | None
    """Time at which the request fails, set when the device goes away."""


R = TypeVar("R", bound=Submission)
R_contra = TypeVar("R_contra", bound=Submission, contravariant=True)


class SubmissionQueue(Protocol[R_contra]):
    """A live queue of the device."""

    figures: RequestFigures

    def room(self, request: R_contra, /) -> bool:
        """Return whether the ring has room for the request."""

    def add(self, request: R_contra, /) -> None:
        """Add the request to the ring. Requires `room`."""

    @property
    def busy(self) -> bool:
        """Whether the ring has requests that the device did not answer yet."""

    def flush(self) -> None:
        """Publish the added requests, and notify the device."""


class Submitter(ABC, Generic[R]):
    """Requests to one device, and their buffers. Run ``serve`` while the submitter is in use."""

    def __init__(self, *, buffers: int = BUFFERS, patience: float = PATIENCE, queues: int = 1) -> None:
        """``buffers``: bytes for request data; ``patience``: seconds that requests wait for a lost device."""
        self.liveness = Liveness()
        """Whether there is a live device."""
        self.figures = [RequestFigures() for _ in range(queues)]
        self._buffer_size = buffers
        self._patience = patience
        self._buffers: BufferPool | None = None
        self._queues: Sequence[SubmissionQueue[R]] = ()
        self._turn = 0
        self._serial = 0
        self._backlog: deque[R] = deque()
        self._to_flush: list[SubmissionQueue[R]] = []
        self._backlog_changed = trio.Event()
        self._draining = False
        """Whether the device gets no further requests."""
        self._drained = trio.Event()
        self._ended = False
        """Whether `serve` has ended."""
        self._waits: set[trio.CancelScope] = set()
        """Waits for a device, which end with `serve`."""

    # Implemented by each device type.

    @abstractmethod
    def admit(self, request: R) -> bool:
        """Return whether the request may go to the live device; else complete it, as the device would refuse it."""

    @abstractmethod
    def fail(self, request: R, cause: str) -> None:
        """Complete a request with an error of our own; ``cause`` is counted."""

    @property
    def online(self) -> bool:
        """Whether there is a live device."""
        return self.liveness.live

    # Called by the driver.

    def attach(self, dma: DmaMemory) -> None:
        """Allocate buffers in this memory from now on. Raises MemoryError."""
        if self._buffers is None or self._buffers.dma is not dma:
            old, self._buffers = self._buffers, BufferPool(dma, self._buffer_size)
            if old is not None:
                old.close()

    def device_up(self, queues: Sequence[SubmissionQueue[R]]) -> None:
        """Resume after the device became live, and send the unanswered requests again."""
        self._queues = queues
        self.liveness.set(True)
        self._expire_due()
        self.feed()
        self.kick()

    def device_down(self, unanswered: Sequence[R]) -> None:
        """Keep the requests that the device did not answer; it no longer touches their buffers."""
        self._queues = ()
        self._drained.set()
        self.liveness.set(False)
        self._to_flush.clear()
        self._backlog.extendleft(sorted(unanswered, key=lambda request: -request.serial))
        self.figures[0].queued += len(unanswered)
        for request in self._backlog:
            self._set_deadline(request)
        self._backlog_changed.set()

    def feed(self, queue: SubmissionQueue[R] | None = None) -> None:
        """Add waiting requests while there is room. With ``queue``, only to that one, which the caller then flushes."""
        backlog = self._backlog
        self._drained.set()
        while backlog and self.liveness.live and not self._draining:
            free = self._queue(backlog[0]) if queue is None else queue if queue.room(backlog[0]) else None
            if free is None:
                return
            self._add(free, backlog.popleft())

    # Interface for programs.

    def submit(self, request: R) -> None:
        """Queue a request. The device is notified by `kick`. After the end of `serve`, the request fails at once."""
        self._serial += 1
        request.serial = self._serial
        if self._ended:
            self.fail(request, "device_lost")
            return
        if not self.liveness.live:
            self._set_deadline(request)
            self._backlog.append(request)
            self._backlog_changed.set()
        elif self._backlog or self._draining or (queue := self._queue(request)) is None:
            self._backlog.append(request)
        else:
            self._add(queue, request)

    def kick(self) -> None:
        """Notify the device of all submitted requests."""
        added = self._to_flush
        while added:
            added.pop().flush()

    def take(self, size: int) -> Buffer | None:
        """Return a buffer of ``size`` bytes for a request, or None if there is no room now."""
        return None if self._buffers is None else self._buffers.take(size)

    async def buffer(self, size: int) -> Buffer:
        """Return a buffer of ``size`` bytes as soon as there is room.

        Raises ValueError if it never fits, TransportLost after the end of `serve`.
        """
        while (buffer := self.take(size)) is None:
            if self._to_flush:
                self.kick()  # may free buffers at once
            elif self._buffers is None:
                await self.wait_up()
            elif size > self._buffers.largest:
                raise ValueError(f"no buffer of {size} bytes, at most {self._buffers.largest}")
            else:
                await self._buffers.wait()
        return buffer

    async def wait_up(self) -> None:
        """Return once the device is live. Raises TransportLost at the end of `serve`: the device was removed."""
        if self._ended:
            raise TransportLost(REMOVED)
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                await self.liveness.wait()
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            raise TransportLost(REMOVED)

    async def drain(self) -> None:
        """Return once the device has answered all requests that it has, and send it no more until `resume`."""
        self._draining = True
        while any(queue.busy for queue in self._queues):
            self._drained = trio.Event()
            await self._drained.wait()

    def resume(self) -> None:
        """Send requests again, after `drain`."""
        self._draining = False
        self.feed()
        self.kick()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fail requests that waited too long for the device. When cancelled, fail those that wait, and later ones."""
        task_status.started()
        try:
            while True:
                self._backlog_changed = trio.Event()
                due = min((r.deadline for r in self._backlog if r.deadline is not None), default=None)
                if self.liveness.live or due is None:
                    await self._backlog_changed.wait()
                    continue
                with trio.move_on_at(due):
                    await self._backlog_changed.wait()
                if not self.liveness.live:
                    self._expire_due()
        finally:
            self._ended = True
            for request in list(self._backlog):
                self._expire(request)
            for scope in self._waits:
                scope.cancel()
            if self._buffers is not None:
                self._buffers.close()
                self._buffers = None

    # Internals.

    @property
    def largest(self) -> int:
        """Bytes of the largest possible buffer; 0 before `attach`."""
        return 0 if self._buffers is None else self._buffers.largest

    def _set_deadline(self, request: R) -> None:
        if request.deadline is None:
            request.deadline = trio.current_time() + self._patience

    def _expire_due(self) -> None:
        now = trio.current_time()
        for request in [r for r in self._backlog if r.deadline is not None and r.deadline <= now]:
            self._expire(request)

    def _expire(self, request: R) -> None:
        self._backlog.remove(request)
        self.fail(request, "device_lost")

    def _queue(self, request: R) -> SubmissionQueue[R] | None:
        """Return the next queue with room, in turn, or None."""
        queues = self._queues
        if len(queues) == 1:
            return queues[0] if queues[0].room(request) else None
        for _ in queues:
            queue = queues[self._turn % len(queues)]
            self._turn += 1
            if queue.room(request):
                return queue
        return None

    def _add(self, queue: SubmissionQueue[R], request: R) -> None:
        if not self.admit(request):
            return
        buffers, buffer = self._buffers, request.buffer
        if buffer is not None and buffer.owner is not buffers:
            moved = buffers.take(buffer.size) if buffers is not None else None
            if moved is None:
                self.fail(request, "device_lost")
                return
            copy_in(moved.views, copy_out(buffer.views, buffer.size))
            buffer.free()
            request.buffer = moved
        queue.add(request)
        if queue not in self._to_flush:
            self._to_flush.append(queue)
