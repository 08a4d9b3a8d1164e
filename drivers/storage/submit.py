"""Requests to a device that outlive resets and link flaps of it: whoever makes them sees one that is slow at worst.

They wait while no queue has room, are told of to the device once for many, and those that it did not answer before it
went away are kept and given to it again; for a time, then each ends with an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import trio

from drivers.contracts.hw import DmaMemory
from drivers.flow.figures import RequestFigures
from drivers.storage.bounce import Buffer, Buffers
from rings.chain import copy_in, copy_out

__all__ = ["BUFFERS", "PATIENCE", "Queue", "Submission", "Submitter"]

PATIENCE = 30.0
"""Seconds that a request may wait for a device that went away."""
BUFFERS = 32 << 20


class Submission(Protocol):
    """What has to be known of a request."""

    buffer: Buffer | None
    """Where its data are."""
    serial: int
    deadline: float | None
    """When it is given up, set once the device went away."""


R = TypeVar("R", bound=Submission)
R_contra = TypeVar("R_contra", bound=Submission, contravariant=True)


class Queue(Protocol[R_contra]):
    """A live queue of the device, as it is filled."""

    figures: RequestFigures

    def room(self, request: R_contra, /) -> bool:
        """Whether the ring takes it now."""

    def add(self, request: R_contra, /) -> None: ...

    def flush(self) -> None:
        """Show the device what was added, and tell it."""


class Submitter(Generic[R]):
    """Requests on their way to one device, and their buffers. ``serve`` has to run for as long as it is used."""

    def __init__(self, *, buffers: int = BUFFERS, patience: float = PATIENCE, queues: int = 1) -> None:
        """``buffers``: bytes for data on its way; ``patience``: seconds that requests wait for a lost device."""
        self.online = False
        self.figures = [RequestFigures() for _ in range(queues)]
        self._room = buffers
        self._patience = patience
        self._buffers: Buffers | None = None
        self._queues: Sequence[Queue[R]] = ()
        self._turn = 0
        self._serial = 0
        self._waiting: deque[R] = deque()
        self._added: list[Queue[R]] = []
        self._came_up = trio.Event()
        self._changed = trio.Event()

    # What each kind of device says.

    def admit(self, request: R) -> bool:
        """Whether the device, which is there, may get it; one that it would have to refuse has ended then."""
        raise NotImplementedError

    def fail(self, request: R, cause: str) -> None:
        """End a request with an error that no device answered."""
        raise NotImplementedError

    # What the driver says.

    def attach(self, dma: DmaMemory) -> None:
        """Have buffers in this memory from now on. Raises MemoryError."""
        if self._buffers is None or self._buffers.dma is not dma:
            old, self._buffers = self._buffers, Buffers(dma, self._room)
            if old is not None:
                old.close()

    def device_up(self, queues: Sequence[Queue[R]]) -> None:
        """The device is live: it gets again what was kept."""
        self._queues, self.online = queues, True
        self._expire_due()
        self.feed()
        self.kick()
        self._came_up.set()

    def device_down(self, kept: Sequence[R]) -> None:
        """The device is gone, and did not answer these; it touches their buffers no more."""
        self.online, self._queues = False, ()
        self._added.clear()
        if self._came_up.is_set():
            self._came_up = trio.Event()
        self._waiting.extendleft(sorted(kept, key=lambda request: -request.serial))
        self.figures[0].queued += len(kept)
        for request in self._waiting:
            self._set_deadline(request)
        self._changed.set()

    def feed(self, queue: Queue[R] | None = None) -> None:
        """Give the device what waits, as far as there is room; whoever says in which queue will flush that."""
        waiting = self._waiting
        while waiting and self.online:
            found = self._queue(waiting[0]) if queue is None else queue if queue.room(waiting[0]) else None
            if found is None:
                return
            self._add(found, waiting.popleft())

    # What programs say.

    def submit(self, request: R) -> None:
        """Have it done; nobody tells the device before `kick`."""
        self._serial += 1
        request.serial = self._serial
        if not self.online:
            self._set_deadline(request)
            self._waiting.append(request)
            self._changed.set()
        elif self._waiting or (queue := self._queue(request)) is None:
            self._waiting.append(request)
        else:
            self._add(queue, request)

    def kick(self) -> None:
        """Tell the device of everything that was submitted."""
        added = self._added
        while added:
            added.pop().flush()

    def take(self, size: int) -> Buffer | None:
        """A buffer of ``size`` bytes for a request, or None while there is no room for it."""
        return None if self._buffers is None else self._buffers.take(size)

    async def buffer(self, size: int) -> Buffer:
        """A buffer as soon as there is one. Raises ValueError for more than there will ever be."""
        while (buffer := self.take(size)) is None:
            if self._added:
                self.kick()  # which may give some back at once
            elif self._buffers is None:
                await self.wait_up()
            elif size > self._buffers.largest:
                raise ValueError(f"no buffer of {size} bytes, at most {self._buffers.largest}")
            else:
                await self._buffers.wait()
        return buffer

    async def wait_up(self) -> None:
        """Return once the device is there."""
        while not self.online:
            await self._came_up.wait()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fail what waited for the device for too long. At the end, everything that still waits."""
        task_status.started()
        try:
            while True:
                self._changed = trio.Event()
                due = min((r.deadline for r in self._waiting if r.deadline is not None), default=None)
                if self.online or due is None:
                    await self._changed.wait()
                    continue
                with trio.move_on_at(due):
                    await self._changed.wait()
                if not self.online:
                    self._expire_due()
        finally:
            for request in list(self._waiting):
                self._expire(request)

    # How it is done.

    @property
    def largest(self) -> int:
        """Bytes of the largest buffer there can be; 0 before there are any."""
        return 0 if self._buffers is None else self._buffers.largest

    def _set_deadline(self, request: R) -> None:
        if request.deadline is None:
            request.deadline = trio.current_time() + self._patience

    def _expire_due(self) -> None:
        now = trio.current_time()
        for request in [r for r in self._waiting if r.deadline is not None and r.deadline <= now]:
            self._expire(request)

    def _expire(self, request: R) -> None:
        self._waiting.remove(request)
        self.fail(request, "device_lost")

    def _queue(self, request: R) -> Queue[R] | None:
        """The queue whose turn it is, among those with room."""
        queues = self._queues
        for _ in queues:
            queue = queues[self._turn % len(queues)]
            self._turn += 1
            if queue.room(request):
                return queue
        return None

    def _add(self, queue: Queue[R], request: R) -> None:
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
        if queue not in self._added:
            self._added.append(queue)
