"""vhost-blk: the device's side of a disk, between the driver's rings and a sector store."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from drivers.devices.blk.figures import RequestFigures
from drivers.devices.blk.layout import (
    ID_SIZE,
    SECTOR,
    SUPPORTED,
    TABLE,
    BlkConfig,
    BlkFeature,
    BlkStatus,
    ConfigField,
    RequestType,
)
from drivers.devices.blk.request import Limits, Refusal, Request
from drivers.devices.blk.workers import Job, Workers
from drivers.errors import PortGone
from drivers.model import MatchId, present
from drivers.ports import SectorStore
from drivers.pump import Need, pump
from drivers.vhost import DeviceQueue, VhostDevice
from rings.chain import copy_in
from rings.features import mask
from rings.ids import DeviceId
from rings.queue import Vringh

__all__ = ["BlkPlug", "VhostBlk"]

BUDGET = 64
"""Requests per batch."""
BUDGET_BYTES = 1 << 20
SIZE_MAX = 4 << 20
SEG_MAX = 126
MAX_SECTORS = 1 << 21
"""Of one segment of a discard or write-zeroes request: 1 GiB."""
MAX_SEGMENTS = 16
WRITEBACK = ConfigField.WRITEBACK.value[0]


@attrs.define(eq=False)
class BlkPlug:
    """What one vhost-blk device is: its store, and what it offers."""

    store: SectorStore
    serial: str = ""
    """What GET_ID says: at most 20 bytes of ASCII."""
    features: int = SUPPORTED
    queue_size: int = 256
    queues: int = 1
    workers: int = 4
    """Requests that may block at the same time."""
    figures: list[RequestFigures] = attrs.field(init=False)
    """By queue."""
    resized: Callable[[], None] = attrs.field(init=False, default=lambda: None)
    """Call it when the store has another size."""

    @figures.default
    def _figures(self) -> list[RequestFigures]:
        return [RequestFigures() for _ in range(self.queues)]


class RequestFlow:
    """One queue: requests are done at once where the store lets them, else by a worker, in any order."""

    def __init__(self, queue: DeviceQueue, bound: BoundVhostBlk, workers: Workers, figures: RequestFigures) -> None:
        self.queue = queue
        self._bound = bound
        self._store = bound.plug.store
        self._workers = workers
        self._figures = figures
        self._ring = queue.ring
        self._ended: deque[Job] = deque()
        self._working = 0

    async def run(self, settle: Callable[[], Awaitable[None]] | None) -> None:
        """Serve the queue; one that breaks still gets back what was taken from it."""
        await pump(self, settle, in_place=True)
        while self._working and self.held():
            await self.queue.signal.wait()
            if self.held() and self._give_back():
                if settle is not None:
                    await settle()
                if self.held():
                    self.queue.flush()

    def held(self) -> bool:
        """Whether ring and buffers are those the requests came from, and still there: nothing else is touched."""
        return self._ring is not None and self.queue.ring is self._ring and self._ring.reachable()

    def move(self) -> tuple[int, Need]:
        ring = self._ring
        if ring is None or self.queue.ring is not ring:
            return 0, Need.QUEUE
        moved, size = self._give_back(), 0
        limits, parse = self._bound.limits, Request.parse
        while moved < BUDGET and size < BUDGET_BYTES:
            chain = ring.getdesc()
            if chain is None:
                return moved, Need.QUEUE
            request = parse(chain, limits)
            self._figures.taken += 1
            moved += 1
            if isinstance(request, Refusal):
                self._answer(ring, request, request.verdict, 0, request.cause)
            else:
                size += request.size
                self._begin(ring, request)
        return moved, Need.TURN

    def _begin(self, ring: Vringh, request: Request) -> None:
        kind, got = request.kind, 0
        try:
            if kind == RequestType.IN:
                got = self._store.preadv(request.data, request.offset)
            elif kind == RequestType.OUT and not self._workers.writethrough:
                got = self._store.pwritev(request.data, request.offset)
            elif kind == RequestType.GET_ID:
                serial = self._bound.plug.serial.encode("ascii", "replace")[:ID_SIZE].ljust(ID_SIZE, b"\0")
                self._answer(ring, request, BlkStatus.OK, copy_in(request.data, serial))
                return
        except OSError as error:
            self._answer(ring, request, BlkStatus.IOERR, 0, error.strerror or "short")
            return
        if got == request.size and kind in (RequestType.IN, RequestType.OUT):
            self._answer(ring, request, BlkStatus.OK, got)
        else:
            self._working += 1
            self._figures.queued += 1
            self._workers.submit(Job(request, self.held, self._finished, got))

    def _finished(self, job: Job) -> None:
        self._ended.append(job)
        self.queue.signal.set()

    def _give_back(self) -> int:
        """Answer what workers are done with; how many."""
        count = len(self._ended)
        for _ in range(count):
            job = self._ended.popleft()
            self._working -= 1
            assert self._ring is not None
            self._answer(self._ring, job.request, job.status, job.done, job.cause)
        return count

    def _answer(self, ring: Vringh, request: Request | Refusal, status: BlkStatus, moved: int, cause: str = "") -> None:
        """The status is written last, when everything else is. The length never covers what may be unwritten."""
        request.status[0] = status
        figures = self._figures
        if status:
            figures.fail(cause)
            ring.complete(request.head, 0)
            return
        assert isinstance(request, Request)
        figures.done += 1
        figures.bytes += moved if request.kind != RequestType.GET_ID else 0
        ring.complete(request.head, 1 + (moved if request.kind in _ANSWERS else 0))

    async def wait(self, need: Need) -> None:
        """There is nothing to wait for but the queue."""

    def gone(self, error: PortGone) -> None:
        """A store that is gone answers with errors."""


_ANSWERS = frozenset((RequestType.IN, RequestType.GET_ID))


class BoundVhostBlk:
    """One vhost-blk device with its store."""

    def __init__(self, device: VhostDevice, plug: BlkPlug) -> None:
        self._device = device
        self.plug = plug
        self.limits = Limits(0, 0)
        self._workers: Workers | None = None
        self._writeback = True

    def offer(self) -> None:
        plug, info = self.plug, self.plug.store.info
        features = plug.features & SUPPORTED
        without = {
            BlkFeature.RO: not info.read_only,
            BlkFeature.DISCARD: info.read_only,
            BlkFeature.WRITE_ZEROES: info.read_only,
            BlkFeature.MQ: plug.queues == 1,
            # A cache that can't be flushed must not be offered as one (section 5.2.5.2).
            BlkFeature.CONFIG_WCE: not features >> BlkFeature.FLUSH & 1,
        }
        features &= ~mask(bit for bit, lacks in without.items() if lacks)
        count = plug.queues if features >> BlkFeature.MQ & 1 else 1
        self._device.offer(
            TABLE, features, [(f"requestq{i + 1}", plug.queue_size) for i in range(count)], self._config(features)
        )
        self._device.on_features = self._agreed
        plug.resized = self._resized

    def _config(self, features: int) -> bytes:
        plug, info = self.plug, self.plug.store.info

        def fields(bit: BlkFeature, **values: int) -> dict[str, int]:
            return values if features >> bit & 1 else {}

        return BlkConfig(
            capacity=info.size // SECTOR,
            **fields(BlkFeature.SIZE_MAX, size_max=SIZE_MAX),
            **fields(BlkFeature.SEG_MAX, seg_max=max(1, min(SEG_MAX, plug.queue_size - 2))),
            **fields(BlkFeature.BLK_SIZE, blk_size=info.block_size),
            **fields(
                BlkFeature.TOPOLOGY,
                physical_block_exp=(info.physical_block // info.block_size).bit_length() - 1,
                min_io_size=max(1, info.physical_block // info.block_size),
            ),
            **fields(BlkFeature.CONFIG_WCE, writeback=int(self._writeback)),
            **fields(BlkFeature.MQ, num_queues=plug.queues),
            **fields(
                BlkFeature.DISCARD,
                max_discard_sectors=MAX_SECTORS,
                max_discard_seg=MAX_SEGMENTS,
                discard_sector_alignment=max(1, info.physical_block // SECTOR),
            ),
            **fields(
                BlkFeature.WRITE_ZEROES,
                max_write_zeroes_sectors=MAX_SECTORS,
                max_write_zeroes_seg=MAX_SEGMENTS,
                write_zeroes_may_unmap=int(info.unmaps),
            ),
        ).emit()

    def _agreed(self, features: int) -> None:
        """At FEATURES_OK: a driver that can't flush gets no cache (section 5.2.5.2)."""
        self._set_writeback(bool(features >> BlkFeature.FLUSH & 1))

    def _set_writeback(self, on: bool) -> None:
        self._writeback = on
        self._device.set_config(self._config(self._device.device_features))
        if self._workers is not None:
            self._workers.writethrough = not on

    def _resized(self) -> None:
        self.limits = attrs.evolve(self.limits, capacity=self.plug.store.info.size // SECTOR)
        self._device.set_config(self._config(self._device.device_features))

    async def run(self) -> None:
        device, plug, info = self._device, self.plug, self.plug.store.info
        self.limits = Limits(info.size // SECTOR, device.features, info.read_only, MAX_SECTORS, MAX_SEGMENTS)
        workers = self._workers = Workers(plug.store, writethrough=not self._writeback)
        flows = [RequestFlow(q, self, workers, f) for q, f in zip(device.queues, plug.figures, strict=False)]
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(plug.workers):
                    nursery.start_soon(workers.work)
                for flow in flows:
                    nursery.start_soon(flow.run, device.settle)
        finally:
            self._workers = None

    def config_written(self, offset: int, data: bytes) -> None:
        """Only the cache mode is a driver's to choose, and only if that was agreed on."""
        if (offset, len(data)) == (WRITEBACK, 1) and self._device.features >> BlkFeature.CONFIG_WCE & 1 and data[0] < 2:
            self._set_writeback(bool(data[0]))

    async def close(self) -> None:
        self._device.on_features = None


class VhostBlk:
    """The device type; ``plug_for`` says what a device of it is, None while that is not there yet."""

    name = "vhost_blk"
    id_table: Sequence[MatchId] = (MatchId(DeviceId.BLOCK),)
    table = TABLE

    def __init__(self, plug_for: Callable[[VhostDevice], BlkPlug | None]) -> None:
        self._plug_for = plug_for

    async def probe(self, device: VhostDevice) -> BoundVhostBlk:
        plug = present(self._plug_for(device), device, "no store yet")
        bound = BoundVhostBlk(device, plug)
        bound.offer()
        return bound
