"""vhost-blk: the device's side of a disk, between the driver's rings and a sector store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import attrs
import trio

from drivers.bus.config import emit_config
from drivers.bus.plug import Plug
from drivers.bus.vhost import DeviceQueue, OfferedQueue, VhostBound, VhostDevice
from drivers.contracts.ports import Lifetime, SectorStore
from drivers.devices.blk.device.request import BlkLimits, Refusal, VhostBlkRequest
from drivers.devices.blk.layout import (
    ANSWER_SIZES,
    CONFIG_SIZE,
    GET_ID,
    ID_SIZE,
    IN,
    LIFETIME,
    OK,
    OUT,
    SECTOR,
    SUPPORTED,
    TABLE,
    BlkConfigField,
    BlkFeature,
    BlkStatus,
    RequestType,
)
from drivers.flow.figures import RequestFigures
from drivers.storage.job_flow import AT_ONCE, JobFlow
from drivers.storage.workers import IoKind, Job, Workers
from rings.chain import Chain, copy_in
from rings.features import mask
from rings.sides import MAX_CHAIN_BYTES

__all__ = ["BlkPlug", "BoundVhostBlk"]

SIZE_MAX = 4 << 20
"""Maximum bytes of one data segment."""
SEG_MAX = 126
"""Maximum number of data segments of one request, at any ring size."""
TABLE_MAX = SEG_MAX + 2
"""Descriptors of the longest request: header, data, status."""
MAX_SECTORS = 1 << 21
"""Maximum sectors of one segment of a discard, write-zeroes or secure-erase request: 1 GiB."""
MAX_SEGMENTS = 16
"""Maximum segments of one discard, write-zeroes or secure-erase request."""
C = BlkConfigField
WRITEBACK = C.WRITEBACK.value[0]


@attrs.define(eq=False)
class BlkPlug(Plug["BoundVhostBlk"]):
    """Store and settings of one vhost-blk device, and its counters, which outlive resets."""

    store: SectorStore
    serial: str = ""
    """Answer to GET_ID: at most 20 ASCII characters."""
    features: int = SUPPORTED
    """Feature bits to offer."""
    queue_size: int = 256
    """Descriptors per ring."""
    queues: int = 1
    workers: int = 4
    """Maximum number of requests that block at the same time."""
    erases: bool = False
    """Whether overwritten sectors are gone for good, so that the device offers SECURE_ERASE."""
    lifetime: Lifetime | None = None
    """Answer to GET_LIFETIME; None for that of the store."""
    figures: list[RequestFigures] = attrs.field(init=False)
    """Counters per queue."""

    @figures.default
    def _figures(self) -> list[RequestFigures]:
        return [RequestFigures() for _ in range(self.queues)]

    @property
    def answers(self) -> Mapping[int, bytes]:
        """Answers to the requests that ask for something besides sectors."""
        lifetime = self.lifetime or self.store.info.lifetime
        answers: dict[int, bytes] = {GET_ID: self.serial.encode("ascii", "replace")[:ID_SIZE].ljust(ID_SIZE, b"\0")}
        if lifetime is not None and lifetime.valid:
            answers[RequestType.GET_LIFETIME] = LIFETIME.pack(*attrs.astuple(lifetime))
        return answers

    def resized(self) -> None:
        """Handle a change of the store's information, such as its size."""
        if self.bound is not None:
            self.bound.store_changed()


class VhostBlkRequestFlow(JobFlow[VhostBlkRequest]):
    """One request queue."""

    def __init__(self, queue: DeviceQueue, bound: BoundVhostBlk, workers: Workers, figures: RequestFigures) -> None:
        super().__init__(queue, workers, figures)
        self._bound = bound
        self._store = bound.plug.store

    def begin(self, chain: Chain) -> int:
        request = VhostBlkRequest.parse(chain, self._bound.limits)
        self.figures.taken += 1
        if isinstance(request, Refusal):
            self._fail(request, request.status, request.cause)
            return 0
        self._start_io(request)
        return request.size

    def _start_io(self, request: VhostBlkRequest) -> None:
        """Copy between store and driver memory at once if the store can, else submit a job."""
        kind, moved = request.kind, 0
        writeback, small = self._bound.writeback, request.size <= AT_ONCE
        try:
            if kind == IN and small:
                moved = self._store.preadv(request.data, request.offset)
            elif kind == OUT and writeback and small:
                moved = self._store.pwritev(request.data, request.offset)
            elif kind in ANSWER_SIZES:
                self._answer(request, copy_in(request.data, self._bound.plug.answers[kind]))
                return
        except OSError as error:
            self._fail(request, BlkStatus.IOERR, error.strerror or "short")
            return
        if moved == request.size and kind in _MOVES:
            self._answer(request, moved)
            return
        self.submit_job(
            Job(
                _KINDS[kind],
                self._store,
                self.attached,
                self.on_finished,
                request,
                offset=request.offset,
                size=request.size,
                data=request.data,
                extents=request.extents,
                stable=not writeback,
                done=moved,
            )
        )

    def end(self, job: Job[VhostBlkRequest]) -> None:
        if job.error is None:
            self._answer(job.request, job.done)
        else:
            self._fail(job.request, BlkStatus.IOERR, job.cause)

    def _answer(self, request: VhostBlkRequest, moved: int) -> None:
        """Write the status last, and complete the chain. The used length never covers bytes that may be unwritten."""
        kind, figures = request.kind, self.figures
        request.status_byte[0] = OK
        figures.done += 1
        figures.bytes += moved if kind not in ANSWER_SIZES else 0
        self.complete(request.head, 1 + (moved if kind in _ANSWERS else 0))

    def _fail(self, request: VhostBlkRequest | Refusal, status: BlkStatus, cause: str) -> None:
        """Answer with an error, and complete the chain with 0 bytes: data may be unwritten in front of the status."""
        request.status_byte[0] = status
        self.figures.fail(cause)
        self.complete(request.head, 0)


_ANSWERS = frozenset((IN, *ANSWER_SIZES))
_MOVES = frozenset((IN, OUT))
_KINDS: Mapping[int, IoKind] = {
    RequestType.IN: IoKind.READ,
    RequestType.OUT: IoKind.WRITE,
    RequestType.FLUSH: IoKind.FLUSH,
    RequestType.DISCARD: IoKind.DISCARD,
    RequestType.WRITE_ZEROES: IoKind.WRITE_ZEROES,
    RequestType.SECURE_ERASE: IoKind.ERASE,
}


class BoundVhostBlk(VhostBound[BlkPlug]):
    """One vhost-blk device with its store."""

    def __init__(self, device: VhostDevice, plug: BlkPlug) -> None:
        super().__init__(device, plug)
        self.limits = BlkLimits(0, 0)
        self.writeback = True
        """Whether a write may be answered before it is on stable storage (the writeback field)."""

    def offer(self) -> None:
        plug, info = self.plug, self.plug.store.info
        features = plug.features & SUPPORTED
        lacking = {
            BlkFeature.RO: not info.read_only,
            BlkFeature.DISCARD: info.read_only,
            BlkFeature.WRITE_ZEROES: info.read_only,
            BlkFeature.SECURE_ERASE: info.read_only or not plug.erases,
            BlkFeature.LIFETIME: RequestType.GET_LIFETIME not in plug.answers,
            BlkFeature.MQ: plug.queues == 1,
            # A cache that cannot be flushed must not be offered (section 5.2.5.2).
            BlkFeature.CONFIG_WCE: not features >> BlkFeature.FLUSH & 1,
        }
        features &= ~mask(bit for bit, lacks in lacking.items() if lacks)
        count = plug.queues if features >> BlkFeature.MQ & 1 else 1
        queues = [OfferedQueue(f"requestq{i + 1}", plug.queue_size, TABLE_MAX) for i in range(count)]
        self.device.offer(TABLE, features, queues, self._config(features))
        plug.attach(self)

    def _config(self, features: int) -> bytes:
        """Return the configuration, with the fields of these features."""
        plug, info = self.plug, self.plug.store.info
        fields = {
            C.CAPACITY: info.size // SECTOR,
            C.SIZE_MAX: SIZE_MAX,
            C.SEG_MAX: max(1, min(SEG_MAX, plug.queue_size - 2)),
            C.BLK_SIZE: info.block_size,
            C.PHYSICAL_BLOCK_EXP: (info.physical_block // info.block_size).bit_length() - 1,
            C.MIN_IO_SIZE: max(1, info.physical_block // info.block_size),
            C.WRITEBACK: int(self.writeback),
            C.NUM_QUEUES: plug.queues,
            C.MAX_DISCARD_SECTORS: MAX_SECTORS,
            C.MAX_DISCARD_SEG: MAX_SEGMENTS,
            C.DISCARD_SECTOR_ALIGNMENT: max(1, info.physical_block // SECTOR),
            C.MAX_WRITE_ZEROES_SECTORS: MAX_SECTORS,
            C.MAX_WRITE_ZEROES_SEG: MAX_SEGMENTS,
            C.WRITE_ZEROES_MAY_UNMAP: int(info.unmaps),
            C.MAX_SECURE_ERASE_SECTORS: MAX_SECTORS,
            C.MAX_SECURE_ERASE_SEG: MAX_SEGMENTS,
            C.SECURE_ERASE_SECTOR_ALIGNMENT: max(1, info.physical_block // SECTOR),
        }
        valid = {f: n for f, n in fields.items() if f.feature is None or features >> f.feature & 1}
        return emit_config(valid, CONFIG_SIZE)

    def features_ok(self, features: int) -> None:
        """At FEATURES_OK, turn off the cache for a driver that cannot flush (section 5.2.5.2)."""
        self._set_writeback(bool(features >> BlkFeature.FLUSH & 1))

    def _set_writeback(self, on: bool) -> None:
        self.writeback = on
        self.device.set_config(self._config(self.device.device_features))

    def store_changed(self) -> None:
        """Report the store's size to the driver."""
        self.limits = attrs.evolve(self.limits, capacity=self.plug.store.info.size // SECTOR)
        self.device.set_config(self._config(self.device.device_features))

    async def run(self) -> None:
        device, plug, info = self.device, self.plug, self.plug.store.info
        bounded = not mask((BlkFeature.SIZE_MAX, BlkFeature.SEG_MAX)) & ~device.features
        self.limits = BlkLimits(
            info.size // SECTOR,
            device.features,
            info.read_only,
            MAX_SECTORS,
            MAX_SEGMENTS,
            SIZE_MAX * SEG_MAX if bounded else MAX_CHAIN_BYTES,
        )
        workers = Workers()
        async with trio.open_nursery() as nursery:
            for _ in range(plug.workers):
                nursery.start_soon(workers.work)
            for queue, figures in zip(device.queues, plug.figures, strict=False):
                nursery.start_soon(queue.serve_each_ring, partial(self._serve, queue, workers, figures))

    async def _serve(self, queue: DeviceQueue, workers: Workers, figures: RequestFigures) -> None:
        await VhostBlkRequestFlow(queue, self, workers, figures).run(self.device.settle)

    def config_written(self, offset: int, data: bytes) -> None:
        """Accept the cache mode, the only writable field, if CONFIG_WCE was negotiated."""
        if (offset, len(data)) == (WRITEBACK, 1) and self.device.has(BlkFeature.CONFIG_WCE) and data[0] < 2:
            self._set_writeback(bool(data[0]))

    async def close(self) -> None:
        self.plug.detach()
