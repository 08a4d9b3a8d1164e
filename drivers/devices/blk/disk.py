"""A virtio-blk disk as programs on the driver's host use it: it outlives resets and link flaps of its device.

Programs that want speed make `DiskRequest`s, `submit` several and `kick` once; everybody else awaits `read`, `write`
and so on. Requests that the device did not answer before it went away are kept and given to it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs
import trio

from drivers.devices.blk.buffers import LARGE, Buffer, Buffers
from drivers.devices.blk.figures import RequestFigures
from drivers.devices.blk.geometry import Geometry
from drivers.devices.blk.layout import BlkStatus, RequestType
from drivers.errors import DriverError
from drivers.hw import DmaMemory
from rings.chain import copy_in, copy_out

__all__ = ["Disk", "DiskError", "DiskQueue", "DiskRequest"]

PATIENCE = 30.0
"""Seconds that a request may wait for a device that went away."""
BUFFERS = 32 << 20
PART = 1 << 20
"""Bytes of data in one request to the device at most: larger ones are done in parts."""
WRITES = frozenset((RequestType.OUT, RequestType.DISCARD, RequestType.WRITE_ZEROES))


class DiskError(DriverError):
    """A request ended with an error; ``status`` is the device's word for it."""

    def __init__(self, status: BlkStatus, what: str) -> None:
        super().__init__(f"{what}: {status.name}")
        self.status = status


@attrs.define(eq=False)
class DiskRequest:
    """One request to the device. ``done`` is called when it ended, with ``status`` set; the buffer is its maker's."""

    kind: RequestType
    done: Callable[[DiskRequest], None]
    offset: int = 0
    """Bytes, as is ``size``."""
    size: int = 0
    buffer: Buffer | None = None
    """Data to write, or where data that is read comes to."""
    unmap: bool = False
    context: object = None
    """Whatever ``done`` needs."""
    status: BlkStatus = BlkStatus.OK
    answer: bytes = b""
    """What GET_ID says."""
    serial: int = 0
    deadline: float | None = None
    """When it is given up, set once the device went away."""


class DiskQueue(Protocol):
    """A live queue of the device, as the disk fills it."""

    figures: RequestFigures

    def room(self, request: DiskRequest) -> bool:
        """Whether the ring takes it now."""

    def add(self, request: DiskRequest) -> None: ...

    def flush(self) -> None:
        """Show the device what was added, and tell it."""


@attrs.define(eq=False)
class _Operation:
    """What one caller waits for: several requests, and where their data goes."""

    into: memoryview | None = None
    left: int = 0
    """Requests that did not end yet, those that are still to be made among them."""
    status: BlkStatus = BlkStatus.OK
    over: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen(eq=False)
class _Part:
    """One request of an operation, and the bytes before it."""

    operation: _Operation
    at: int = 0


class Disk:
    """A disk. ``serve`` has to run for as long as it is used."""

    def __init__(self, *, buffers: int = BUFFERS, patience: float = PATIENCE, queues: int = 1) -> None:
        """``buffers``: bytes for data on its way; ``patience``: seconds that requests wait for a lost device."""
        self.geometry: Geometry | None = None
        """Of the device when it was there last."""
        self.online = False
        self.transfer_max = PART
        """Bytes of data that one request may have."""
        self.figures = [RequestFigures() for _ in range(queues)]
        self.resized = trio.lowlevel.ParkingLot()
        """Woken when the geometry changes."""
        self._room = buffers
        self._patience = patience
        self._buffers: Buffers | None = None
        self._queues: Sequence[DiskQueue] = ()
        self._turn = 0
        self._serial = 0
        self._waiting: deque[DiskRequest] = deque()
        self._added: list[DiskQueue] = []
        self._came_up = trio.Event()
        self._changed = trio.Event()

    # What the driver says.

    def attach(self, dma: DmaMemory) -> None:
        """Have buffers in this memory from now on. Raises MemoryError."""
        if self._buffers is None or self._buffers.dma is not dma:
            old, self._buffers = self._buffers, Buffers(dma, self._room)
            if old is not None:
                old.close()

    def come_up(self, geometry: Geometry, queues: Sequence[DiskQueue], transfer_max: int) -> None:
        """The device is live: it gets again what was kept."""
        assert self._buffers is not None
        self.transfer_max = min(transfer_max, self._buffers.largest)
        self.set_geometry(geometry)
        self._queues, self.online = queues, True
        self._expire_due()
        self.feed()
        self.kick()
        self._came_up.set()

    def set_geometry(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.resized.unpark_all()

    def go_down(self, kept: Sequence[DiskRequest]) -> None:
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

    def feed(self) -> None:
        """Give the device what waits, as far as there is room."""
        waiting = self._waiting
        while waiting and self.online:
            queue = self._queue(waiting[0])
            if queue is None:
                return
            self._add(queue, waiting.popleft())

    # What programs say.

    def submit(self, request: DiskRequest) -> None:
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
                await self.wait_online()
            elif size > self._buffers.largest:
                raise ValueError(f"no buffer of {size} bytes, at most {self._buffers.largest}")
            else:
                await self._buffers.wait()
        return buffer

    async def wait_online(self) -> Geometry:
        """The geometry, once the device is there."""
        while not self.online:
            await self._came_up.wait()
        assert self.geometry is not None
        return self.geometry

    async def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, both multiples of the block size. Raises DiskError, ValueError."""
        data = bytearray(size)
        await self.read_into(offset, memoryview(data))
        return bytes(data)

    async def read_into(self, offset: int, into: memoryview) -> None:
        """Fill ``into``, which changes no more once this returned, however it did. Raises DiskError, ValueError."""
        await self._transfer(RequestType.IN, offset, len(into), into=into)

    async def write(self, offset: int, data: bytes | bytearray | memoryview, *, fua: bool = False) -> None:
        """Write; with ``fua`` it is on stable storage when this returns. Raises DiskError, ValueError."""
        await self._transfer(RequestType.OUT, offset, len(data), data=memoryview(data))
        if fua:
            await self.flush()

    async def flush(self) -> None:
        """Everything that was written is on stable storage when this returns. Raises DiskError."""
        await self._request(DiskRequest(RequestType.FLUSH, self._ended))

    async def discard(self, offset: int, size: int) -> None:
        """The range is of no use any more. Raises DiskError, also where the device can't; ValueError."""
        await self._ranges(RequestType.DISCARD, offset, size)

    async def write_zeroes(self, offset: int, size: int, *, unmap: bool = False) -> None:
        """The range reads as zeroes from now on; its blocks may be given up with ``unmap``.

        Raises DiskError, ValueError.
        """
        if (await self._known()).zeroes_max:
            await self._ranges(RequestType.WRITE_ZEROES, offset, size, unmap)
        else:
            zeroes = bytes(min(size, PART))
            for at in range(0, size, PART):
                await self.write(offset + at, zeroes[: min(PART, size - at)])

    async def get_id(self) -> bytes:
        """What the device calls itself: at most 20 bytes. Raises DiskError."""
        request = DiskRequest(RequestType.GET_ID, self._ended)
        await self._request(request)
        return request.answer.rstrip(b"\0")

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

    async def _known(self) -> Geometry:
        if self.geometry is None:
            with trio.move_on_after(self._patience):
                return await self.wait_online()
            raise DiskError(BlkStatus.IOERR, "there is no device yet")
        return self.geometry

    def _set_deadline(self, request: DiskRequest) -> None:
        if request.deadline is None:
            request.deadline = trio.current_time() + self._patience

    def _expire_due(self) -> None:
        now = trio.current_time()
        for request in [r for r in self._waiting if r.deadline is not None and r.deadline <= now]:
            self._expire(request)

    def _expire(self, request: DiskRequest) -> None:
        self._waiting.remove(request)
        self._fail(request, BlkStatus.IOERR, "device_lost")

    def _fail(self, request: DiskRequest, status: BlkStatus, cause: str) -> None:
        self.figures[0].taken += 1
        self.figures[0].fail(cause)
        request.status = status
        request.done(request)

    def _queue(self, request: DiskRequest) -> DiskQueue | None:
        """The queue whose turn it is, among those with room."""
        queues = self._queues
        for _ in queues:
            queue = queues[self._turn % len(queues)]
            self._turn += 1
            if queue.room(request):
                return queue
        return None

    def _add(self, queue: DiskQueue, request: DiskRequest) -> None:
        """What the device would have to refuse does not get there (VIRTIO 1.4 section 5.2.6.1)."""
        refused = self._refusal(request)
        if refused is not None:
            self._fail(request, *refused)
            return
        if request.kind is RequestType.FLUSH and self.geometry is not None and not self.geometry.flushes:
            request.done(request)  # there is no cache
            return
        buffers = self._buffers
        if request.buffer is not None and request.buffer.owner is not buffers:
            moved = buffers.take(request.size) if buffers is not None else None
            if moved is None:
                self._fail(request, BlkStatus.IOERR, "device_lost")
                return
            copy_in(moved.views, copy_out(request.buffer.views, request.size))
            request.buffer.free()
            request.buffer = moved
        queue.add(request)
        if queue not in self._added:
            self._added.append(queue)

    def _refusal(self, request: DiskRequest) -> tuple[BlkStatus, str] | None:
        geometry, kind = self.geometry, request.kind
        assert geometry is not None
        if request.offset + request.size > geometry.size:
            return BlkStatus.IOERR, "beyond_end"
        if request.buffer is not None and request.size > self.transfer_max:
            return BlkStatus.IOERR, "too_large"
        if geometry.read_only and kind in WRITES:
            return BlkStatus.IOERR, "read_only"
        if (request.offset | request.size) & geometry.block_size - 1:
            return BlkStatus.IOERR, "unaligned"
        if kind is RequestType.DISCARD and request.size > geometry.discard_max:
            return BlkStatus.UNSUPP, "no_discard"
        if kind is RequestType.WRITE_ZEROES and request.size > geometry.zeroes_max:
            return BlkStatus.UNSUPP, "no_write_zeroes"
        return None

    async def _transfer(
        self,
        kind: RequestType,
        offset: int,
        size: int,
        data: memoryview | None = None,
        into: memoryview | None = None,
    ) -> None:
        geometry = await self._known()
        self._check(offset, size, geometry)
        operation = _Operation(into, -(-size // self.transfer_max))
        try:
            for at, part in _parts(size, self.transfer_max):
                buffer = await self.buffer(part)
                if data is not None:
                    copy_in(buffer.views, data[at : at + part])
                self.submit(DiskRequest(kind, self._ended, offset + at, part, buffer, context=_Part(operation, at)))
            await self._finish(operation, f"{kind.name} of {size} bytes at {offset}")
        finally:
            operation.into = None

    async def _ranges(self, kind: RequestType, offset: int, size: int, unmap: bool = False) -> None:
        geometry = await self._known()
        self._check(offset, size, geometry)
        most = geometry.discard_max if kind is RequestType.DISCARD else geometry.zeroes_max
        most = most or size
        operation = _Operation(left=-(-size // most) if size else 0)
        for at, part in _parts(size, most):
            request = DiskRequest(kind, self._ended, offset + at, part, context=_Part(operation))
            request.unmap = unmap and geometry.unmaps
            self.submit(request)
        await self._finish(operation, f"{kind.name} of {size} bytes at {offset}")

    async def _request(self, request: DiskRequest) -> None:
        operation = _Operation(left=1)
        request.context = _Part(operation)
        self.submit(request)
        await self._finish(operation, request.kind.name)

    async def _finish(self, operation: _Operation, what: str) -> None:
        self.kick()
        if operation.left:
            await operation.over.wait()
        else:
            await trio.lowlevel.checkpoint()
        if operation.status:
            raise DiskError(operation.status, what)

    def _check(self, offset: int, size: int, geometry: Geometry) -> None:
        if offset < 0 or offset % geometry.block_size or size % geometry.block_size:
            raise ValueError(f"{size} bytes at {offset} are not whole blocks of {geometry.block_size}")

    @staticmethod
    def _ended(request: DiskRequest) -> None:
        """One part ended; whoever waited for it may have gone."""
        part = request.context
        assert isinstance(part, _Part)
        operation = part.operation
        if request.buffer is not None:
            if operation.into is not None and not request.status:
                into = operation.into[part.at : part.at + request.size]
                for view in request.buffer.views:
                    into[: len(view)] = view
                    into = into[len(view) :]
            request.buffer.free()
        operation.left -= 1
        operation.status = operation.status or request.status
        if not operation.left:
            operation.over.set()


def _parts(size: int, most: int) -> Iterator[tuple[int, int]]:
    for at in range(0, size, max(1, most)):
        yield at, min(most, size - at)


def transfer_max(geometry: Geometry, num: int) -> int:
    """Bytes of data in one request to a device, with a ring of ``num`` descriptors, two of which it needs itself."""
    segments = min(geometry.segments_max, num - 2)
    pieces = segments // -(-LARGE // min(LARGE, geometry.segment_max))
    most = min(PART, pieces * LARGE if pieces else segments * geometry.segment_max)
    return most - most % geometry.block_size
