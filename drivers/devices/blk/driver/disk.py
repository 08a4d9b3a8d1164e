"""A virtio-blk disk for programs on the driver's host. It survives resets and link failures of its device.

`Disk.read`, `Disk.write` and so on are the simple interface; fast programs make `DiskRequest`s, `submit` several and
`kick` once. Requests that the device did not answer before it went away are sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import attrs
import trio

from drivers.contracts.ports import Lifetime
from drivers.devices.blk.driver.geometry import Geometry
from drivers.devices.blk.layout import IN, LIFETIME, BlkStatus, RequestType
from drivers.errors import DriverError
from drivers.storage.bounce import LARGE, Buffer
from drivers.storage.submit import BUFFERS, PATIENCE, SubmissionQueue, Submitter
from rings.chain import copy_in

__all__ = ["Disk", "DiskError", "DiskRequest"]

PART = 1 << 20
"""Maximum bytes of data of one request; larger operations are split."""
RANGES: Mapping[RequestType, tuple[Callable[[Geometry], int], str]] = {
    RequestType.DISCARD: (lambda geometry: geometry.discard_max, "no_discard"),
    RequestType.WRITE_ZEROES: (lambda geometry: geometry.zeroes_max, "no_write_zeroes"),
    RequestType.SECURE_ERASE: (lambda geometry: geometry.erase_max, "no_secure_erase"),
}
"""Requests for a range without data: the maximum size of one, 0 if it is not supported, and the cause of a refusal."""
WRITES = frozenset((RequestType.OUT, *RANGES))


class DiskError(DriverError):
    """A request that ended with an error. ``status`` is the device's."""

    def __init__(self, status: BlkStatus, what: str) -> None:
        super().__init__(f"{what}: {status.name}")
        self.status = status


@attrs.define(eq=False)
class DiskRequest:
    """One request. When it ends, ``status`` is set and ``done`` is called. The caller owns the buffer."""

    kind: RequestType
    done: Callable[[DiskRequest], None]
    offset: int = 0
    """Bytes, as is ``size``."""
    size: int = 0
    buffer: Buffer | None = None
    """Data to write, or room for data to read."""
    unmap: bool = False
    status: BlkStatus = BlkStatus.OK
    answer: bytes = b""
    """Answer to GET_ID or GET_LIFETIME."""
    serial: int = 0
    deadline: float | None = None
    """Time at which the request fails, set when the device goes away."""
    context: object = None
    """Anything of the caller's, for ``done``."""


@attrs.define(eq=False)
class _Operation:
    """One call of `Disk`: a number of requests, and the destination of their data."""

    into: memoryview | None = None
    left: int = 0
    """Number of requests that have not ended, including those not yet submitted."""
    status: BlkStatus = BlkStatus.OK
    completion: trio.Event = attrs.field(factory=trio.Event)

    def part(self, at: int = 0) -> Callable[[DiskRequest], None]:
        """Return the ``done`` of a request for the data from offset ``at`` of the operation's."""
        return partial(self._complete, at)

    def _complete(self, at: int, request: DiskRequest) -> None:
        """Complete one part: copy read data to the caller, who may have been cancelled."""
        if request.buffer is not None:
            if self.into is not None and not request.status:
                into = self.into[at : at + request.size]
                for view in request.buffer.views:
                    into[: len(view)] = view
                    into = into[len(view) :]
            request.buffer.free()
        self.left -= 1
        self.status = self.status or request.status
        if not self.left:
            self.completion.set()


class Disk(Submitter[DiskRequest]):
    """A disk. Run ``serve`` while the disk is in use."""

    def __init__(self, *, buffers: int = BUFFERS, patience: float = PATIENCE, queues: int = 1) -> None:
        """``buffers``: bytes for request data; ``patience``: seconds that requests wait for a lost device."""
        super().__init__(buffers=buffers, patience=patience, queues=queues)
        self.geometry: Geometry | None = None
        """Geometry of the device when it was last up."""
        self.transfer_max = PART
        """Maximum bytes of data of one request."""
        self.resized = trio.lowlevel.ParkingLot()
        """Unparked when the geometry changes."""

    # Called by the driver.

    def come_up(self, geometry: Geometry, queues: Sequence[SubmissionQueue[DiskRequest]], transfer_max: int) -> None:
        """Resume after the device became live."""
        self.transfer_max = min(transfer_max, self.largest)
        self.set_geometry(geometry)
        self.device_up(queues)

    def set_geometry(self, geometry: Geometry) -> None:
        """Set the geometry and wake those who wait for a change."""
        self.geometry = geometry
        self.resized.unpark_all()

    # Interface for programs. Once the device was removed, each call raises DiskError or TransportLost.

    async def wait_online(self) -> Geometry:
        """Return the geometry, once the device is live."""
        await self.wait_up()
        assert self.geometry is not None
        return self.geometry

    async def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, both multiples of the block size. Raises DiskError, ValueError."""
        data = bytearray(size)
        await self.read_into(offset, memoryview(data))
        return bytes(data)

    async def read_into(self, offset: int, into: memoryview) -> None:
        """Fill ``into``; it does not change after the call has returned or raised. Raises DiskError, ValueError."""
        await self._transfer(RequestType.IN, offset, len(into), into=into)

    async def write(self, offset: int, data: bytes | bytearray | memoryview, *, fua: bool = False) -> None:
        """Write ``data``. With ``fua``, the data are on stable storage on return. Raises DiskError, ValueError."""
        await self._transfer(RequestType.OUT, offset, len(data), data=memoryview(data))
        if fua:
            await self.flush()

    async def flush(self) -> None:
        """Return when all completed writes are on stable storage. Raises DiskError."""
        await self._request(RequestType.FLUSH)

    async def discard(self, offset: int, size: int) -> None:
        """Discard the range's contents. Raises DiskError, also if the device does not support it; ValueError."""
        await self._ranges(RequestType.DISCARD, offset, size)

    async def write_zeroes(self, offset: int, size: int, *, unmap: bool = False) -> None:
        """Write zeroes; with ``unmap``, the device may deallocate the blocks.

        Raises DiskError, ValueError.
        """
        if (await self._known()).zeroes_max:
            await self._ranges(RequestType.WRITE_ZEROES, offset, size, unmap)
        else:
            zeroes = bytes(min(size, PART))
            for at in range(0, size, PART):
                await self.write(offset + at, zeroes[: min(PART, size - at)])

    async def secure_erase(self, offset: int, size: int) -> None:
        """Erase the range's contents for good. Raises DiskError, also if the device does not support it; ValueError."""
        await self._ranges(RequestType.SECURE_ERASE, offset, size)

    async def get_id(self) -> bytes:
        """Return the device's id, at most 20 bytes. Raises DiskError."""
        request = await self._request(RequestType.GET_ID)
        return request.answer.rstrip(b"\0")

    async def lifetime(self) -> Lifetime:
        """Return the wear of the device's storage. Raises DiskError, also if it does not report it."""
        request = await self._request(RequestType.GET_LIFETIME)
        return Lifetime(*LIFETIME.unpack(request.answer))

    # Internals.

    async def _known(self) -> Geometry:
        if self.geometry is None:
            with trio.move_on_after(self._patience):
                return await self.wait_online()
            raise DiskError(BlkStatus.IOERR, "no device has come up yet")
        return self.geometry

    def admit(self, request: DiskRequest) -> bool:
        """Complete requests here that the device would have to refuse (VIRTIO 1.4 section 5.2.6.1)."""
        geometry, size, kind = self.geometry, request.size, request.kind
        assert geometry is not None
        if (
            kind is IN
            and request.offset + size <= geometry.size
            and size <= self.transfer_max
            and not (request.offset | size) & geometry.block_size - 1
        ):
            return True  # a read, the most frequent request
        refusal = self._refusal(request, geometry)
        if refusal is not None:
            self._end(request, *refusal)
            return False
        if kind is RequestType.FLUSH and not geometry.flushes:
            request.done(request)  # the device has no cache
            return False
        return True

    def fail(self, request: DiskRequest, cause: str) -> None:
        self._end(request, BlkStatus.IOERR, cause)

    def _end(self, request: DiskRequest, status: BlkStatus, cause: str) -> None:
        self.figures[0].taken += 1
        self.figures[0].fail(cause)
        request.status = status
        request.done(request)

    def _refusal(self, request: DiskRequest, geometry: Geometry) -> tuple[BlkStatus, str] | None:
        kind = request.kind
        if request.offset + request.size > geometry.size:
            return BlkStatus.IOERR, "beyond_end"
        if request.buffer is not None and request.size > self.transfer_max:
            return BlkStatus.IOERR, "too_large"
        if geometry.read_only and kind in WRITES:
            return BlkStatus.IOERR, "read_only"
        if (request.offset | request.size) & geometry.block_size - 1:
            return BlkStatus.IOERR, "unaligned"
        if kind in RANGES:
            most, cause = RANGES[kind]
            if request.size > most(geometry):
                return BlkStatus.UNSUPP, cause
        if kind is RequestType.GET_LIFETIME and not geometry.lifetime:
            return BlkStatus.UNSUPP, "no_lifetime"
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
                self.submit(DiskRequest(kind, operation.part(at), offset + at, part, buffer))
            await self._finish(operation, f"{kind.name} of {size} bytes at {offset}")
        finally:
            operation.into = None

    async def _ranges(self, kind: RequestType, offset: int, size: int, unmap: bool = False) -> None:
        geometry = await self._known()
        self._check(offset, size, geometry)
        most = RANGES[kind][0](geometry) or size
        operation = _Operation(left=-(-size // most) if size else 0)
        for at, part in _parts(size, most):
            request = DiskRequest(kind, operation.part(), offset + at, part)
            request.unmap = unmap and geometry.unmaps
            self.submit(request)
        await self._finish(operation, f"{kind.name} of {size} bytes at {offset}")

    async def _request(self, kind: RequestType) -> DiskRequest:
        """Submit a request without data, and return it when it has ended. Raises DiskError."""
        operation = _Operation(left=1)
        request = DiskRequest(kind, operation.part())
        self.submit(request)
        await self._finish(operation, kind.name)
        return request

    async def _finish(self, operation: _Operation, what: str) -> None:
        self.kick()
        if operation.left:
            await operation.completion.wait()
        else:
            await trio.lowlevel.checkpoint()
        if operation.status:
            raise DiskError(operation.status, what)

    def _check(self, offset: int, size: int, geometry: Geometry) -> None:
        if offset < 0 or offset % geometry.block_size or size % geometry.block_size:
            raise ValueError(f"{size} bytes at {offset} are not whole blocks of {geometry.block_size}")


def _parts(size: int, most: int) -> Iterator[tuple[int, int]]:
    for at in range(0, size, max(1, most)):
        yield at, min(most, size - at)


def transfer_max(geometry: Geometry, num: int) -> int:
    """Return the maximum bytes of data of one request: header and status take two of the ring's ``num`` descriptors."""
    segments = min(geometry.segments_max, num - 2)
    pieces = segments // -(-LARGE // min(LARGE, geometry.segment_max))
    most = min(PART, pieces * LARGE if pieces else segments * geometry.segment_max)
    return most - most % geometry.block_size
