"""virtio-blk: the driver, between its virtqueues and a `Disk`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import trio

from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioBound, VirtioDevice
from drivers.contracts.hw import DmaMemory
from drivers.devices.blk.driver.disk import PART, Disk, DiskRequest, transfer_max
from drivers.devices.blk.driver.geometry import Geometry
from drivers.devices.blk.layout import (
    ANSWER_SIZES,
    HEADER,
    IN,
    OK,
    SECTOR,
    SEGMENT,
    SUPPORTED,
    UNMAP,
    BlkConfigField,
    BlkFeature,
    BlkStatus,
    RequestType,
)
from drivers.errors import ProbeError
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import pump
from drivers.memory.pool import page_bytes
from drivers.memory.vring import ring_memory
from drivers.storage.bounce import LARGE
from drivers.storage.request_queue import RequestQueue
from rings.features import RingFeature
from rings.memory import Addr
from rings.queue import Segment

__all__ = ["MIN_NUM", "BlkSettings", "BoundVirtioBlk", "host_memory"]

# A slot holds the parts of a request besides its data: header, one segment, answer, status. Whole cache lines.
SLOT, SEGMENT_AT, ANSWER_AT, STATUS_AT = 64, 16, 32, 56
UNANSWERED = 0xFF
SEGMENTS = PART // LARGE
"""Number of data segments of the largest request, if the device takes segments of `LARGE` bytes."""
MIN_NUM = 4
"""Descriptors of the smallest ring with room for header, data and status."""


def segments_of(most: int, largest: int) -> int:
    """Return the descriptors of the longest request, for at most ``most`` data segments of ``largest`` bytes."""
    return 2 + min(most, PART // LARGE * -(-LARGE // min(LARGE, largest)))


def host_memory(num: int, queues: int, buffers: int) -> int:
    """Return the maximum bytes of host memory that the driver allocates, for a device that takes `LARGE` segments."""
    each = ring_memory(num, segments_of(SEGMENTS, LARGE)) + page_bytes(num * SLOT)
    return page_bytes(buffers) + queues * each


@attrs.define(eq=False)
class BlkSettings:
    """Disk and settings of the driver for one virtio-blk device."""

    disk: Disk
    features: int = SUPPORTED
    """Feature bits to accept if offered."""
    queue_size: int | None = None
    """Maximum ring size in descriptors; None for the device's."""


class Slots:
    """DMA memory for the parts of requests besides their data: one slot per descriptor."""

    def __init__(self, dma: DmaMemory, count: int) -> None:
        self._dma = dma
        self._block = dma.alloc(count * SLOT, SLOT)
        self.words = dma.pin(self._block.addr, count * SLOT, "Q")
        self.bytes = dma.pin(self._block.addr, count * SLOT, "B")
        starts = [Addr(self._block.addr + i * SLOT) for i in range(count)]
        self.header: list[Segment] = [(at, HEADER.size) for at in starts]
        self.segment: list[Segment] = [(Addr(at + SEGMENT_AT), SEGMENT.size) for at in starts]
        self.answers = {kind: [(Addr(at + ANSWER_AT), size) for at in starts] for kind, size in ANSWER_SIZES.items()}
        self.status: list[Segment] = [(Addr(at + STATUS_AT), 1) for at in starts]

    def close(self) -> None:
        for view in (self.words, self.bytes):
            self._dma.unpin(view)
        self._dma.free(self._block)


class VirtioBlkRequestFlow(RequestQueue[DiskRequest, int]):
    """One request queue. An answer is the status byte."""

    def __init__(
        self,
        queue: DriverQueue,
        disk: Disk,
        slots: Slots,
        geometry: Geometry,
        *,
        indirect: bool,
        figures: RequestFigures,
    ) -> None:
        super().__init__(queue, disk, figures)
        self._slots = slots
        self._segment_max = geometry.segment_max
        self._indirect = indirect

    def room(self, request: DiskRequest) -> bool:
        if not self._free or not self.queue.live:
            return False
        if self._indirect or request.buffer is None:
            return self.queue.ring.num_free >= (1 if self._indirect else 3)
        return self.queue.ring.num_free >= 2 + len(self._cut(request.buffer.segs))

    def put(self, request: DiskRequest, slot: int) -> None:
        slots = self._slots
        kind, word = request.kind, slot * (SLOT // 8)
        words, header, status = slots.words, slots.header[slot], slots.status[slot]
        words[word] = kind
        words[word + 1] = request.offset // SECTOR if request.buffer is not None else 0
        slots.bytes[slot * SLOT + STATUS_AT] = UNANSWERED
        if request.buffer is not None:
            segs = request.buffer.segs
            if self._segment_max < segs[0][1]:
                segs = self._cut(segs)
            if kind is IN:
                self.queue.ring.add((header,), (*segs, status), slot)
            else:
                self.queue.ring.add((header, *segs), (status,), slot)
        elif kind is RequestType.FLUSH:
            self.queue.ring.add((header,), (status,), slot)
        elif kind in slots.answers:
            self.queue.ring.add((header,), (slots.answers[kind][slot], status), slot)
        else:
            words[word + 2] = request.offset // SECTOR
            words[word + 3] = request.size // SECTOR | (UNMAP << 32 if request.unmap else 0)
            self.queue.ring.add((header, slots.segment[slot]), (status,), slot)

    def _cut(self, segs: Sequence[Segment]) -> list[Segment]:
        """Return the segments, split to the size that the device takes."""
        most = self._segment_max
        return [(Addr(addr + at), min(most, size - at)) for addr, size in segs for at in range(0, size, most)]

    def read(self, request: DiskRequest, slot: int) -> int:
        start, data = slot * SLOT, self._slots.bytes
        status = data[start + STATUS_AT]
        if request.kind in ANSWER_SIZES:
            request.answer = bytes(data[start + ANSWER_AT : start + ANSWER_AT + ANSWER_SIZES[request.kind]])
        return status

    def end(self, request: DiskRequest, status: int, written: int) -> None:
        """Complete a request. Read data are valid only if the used length covers all of them."""
        figures = self.figures
        if status:
            known = status in (BlkStatus.IOERR, BlkStatus.UNSUPP)
            request.status = BlkStatus(status) if known else BlkStatus.IOERR
            figures.fail(request.status.name.lower() if known else "no_status")
        elif request.kind in _ANSWERS and written < 1 + (request.size or ANSWER_SIZES[request.kind]):
            request.status = BlkStatus.IOERR
            figures.fail("used_length")
        else:
            request.status = OK
            figures.done += 1
            figures.bytes += request.size if request.buffer is not None else 0
        request.done(request)

    def close(self) -> None:
        self._slots.close()


_ANSWERS = frozenset((IN, *ANSWER_SIZES))


class BoundVirtioBlk(VirtioBound[BlkSettings]):
    """One live virtio-blk device."""

    _geometry: Geometry

    def __init__(self, device: VirtioDevice, settings: BlkSettings) -> None:
        super().__init__(device, settings)
        self._disk = settings.disk
        self._flows: list[VirtioBlkRequestFlow] = []
        self._transfer_max = 0

    async def set_up(self) -> None:
        device, disk = self.device, self._disk
        self._geometry = geometry = await Geometry.read(device)
        dma = device.ops.dma
        disk.attach(dma)
        count = min(geometry.queues, len(disk.figures))
        segments = segments_of(geometry.segments_max, geometry.segment_max)
        specs = [QueueSpec(f"requestq{i + 1}", self.settings.queue_size, segments=segments) for i in range(count)]
        queues = await device.find_vqs(specs)
        num = min(queue.ring.num for queue in queues)
        if num < MIN_NUM:
            raise ProbeError(f"{device.name}: no request fits a queue of {num} descriptors")
        self._transfer_max = transfer_max(geometry, num)
        indirect = device.has(RingFeature.INDIRECT_DESC)
        for queue, figures in zip(queues, disk.figures, strict=False):
            slots = Slots(dma, queue.ring.num)
            self._flows.append(VirtioBlkRequestFlow(queue, disk, slots, geometry, indirect=indirect, figures=figures))
        if device.has(BlkFeature.CONFIG_WCE) and geometry.flushes:
            await device.ops.write_config(BlkConfigField.WRITEBACK.value[0], b"\1")

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._disk.come_up(self._geometry, self._flows, self._transfer_max)
            for flow in self._flows:
                nursery.start_soon(partial(pump, in_place=True), flow)

    async def config_changed(self) -> None:
        """Read the geometry again: the capacity may have changed (section 5.2.6.1)."""
        self._geometry = await Geometry.read(self.device)
        self._disk.set_geometry(self._geometry)

    def close(self) -> None:
        self._disk.device_down([request for flow in self._flows for request in flow.unanswered()])
        for flow in self._flows:
            flow.close()
        self._flows.clear()
