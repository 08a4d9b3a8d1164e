"""Event and request queues of the virtio-scsi driver."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.devices.scsi.driver.initiator import Initiator
from drivers.devices.scsi.driver.result import ScsiEvent, ScsiRequest, ScsiResult, read_result
from drivers.devices.scsi.layout import (
    CDB_SIZE,
    EVENT,
    EVENTS_MISSED,
    HEADER,
    RESPONSE,
    SENSE_SIZE,
    Lun,
    Response,
    ScsiStatus,
)
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import QUEUE, Wait
from drivers.memory.buffers import BufferBlock
from drivers.storage.request_queue import RequestQueue
from rings.memory import Addr
from rings.queue import Segment

__all__ = ["LunBudget", "VirtioScsiEventFlow", "VirtioScsiRequestFlow"]

EVENTS = 16
"""Number of event buffers."""
# A slot holds header and response. Sizes are whole cache lines.
HEADER_SIZE, RESPONSE_AT, RESPONSE_SIZE, SLOT = HEADER.size + CDB_SIZE, 64, RESPONSE.size + SENSE_SIZE, 192


class LunBudget:
    """Limit on the commands in flight per logical unit, cmd_per_lun (section 5.6.4.1)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight: dict[Lun, int] = {}

    def available(self, lun: Lun) -> bool:
        """Return whether the unit may get one more command."""
        return self._in_flight.get(lun, 0) < self._limit

    def take(self, lun: Lun) -> None:
        """Count a command sent to the unit."""
        self._in_flight[lun] = self._in_flight.get(lun, 0) + 1

    def give_back(self, lun: Lun) -> None:
        """Count a command answered by the unit."""
        left = self._in_flight[lun] - 1
        if left:
            self._in_flight[lun] = left
        else:
            del self._in_flight[lun]


class VirtioScsiRequestFlow(RequestQueue[ScsiRequest, bytes]):
    """One request queue. An answer is the whole response."""

    def __init__(
        self,
        queue: DriverQueue,
        initiator: Initiator,
        budget: LunBudget,
        dma: DmaMemory,
        *,
        indirect: bool,
        figures: RequestFigures,
    ) -> None:
        """``budget`` is shared by all request queues of the device."""
        super().__init__(queue, initiator, figures)
        self._initiator = initiator
        self._budget = budget
        self._indirect = indirect
        self._slots = BufferBlock(dma, queue.ring.num, SLOT)

    def room(self, request: ScsiRequest) -> bool:
        if not self._free or not self.queue.live or not self._budget.available(request.lun):
            return False
        segs = 0 if request.buffer is None else len(request.buffer.segs) + 1
        return self.queue.ring.num_free >= (1 if self._indirect else 2 + segs)

    def put(self, request: ScsiRequest, slot: int) -> None:
        view, addr = self._slots.views[slot], self._slots.addrs[slot]
        view[:HEADER_SIZE] = HEADER.pack(request.lun.emit(), request.tag, 0, 0, 0) + request.cdb.ljust(CDB_SIZE, b"\0")
        view[RESPONSE_AT : RESPONSE_AT + RESPONSE_SIZE] = _UNANSWERED
        out, into = split([] if request.buffer is None else request.buffer.segs, request.out_size)
        header: Segment = (addr, HEADER_SIZE)
        response: Segment = (Addr(addr + RESPONSE_AT), RESPONSE_SIZE)
        self.queue.ring.add((header, *out), (response, *into), slot)
        self._budget.take(request.lun)

    def read(self, request: ScsiRequest, slot: int) -> bytes:
        return bytes(self._slots.views[slot][RESPONSE_AT : RESPONSE_AT + RESPONSE_SIZE])

    def end(self, request: ScsiRequest, raw: bytes, written: int) -> None:
        self._budget.give_back(request.lun)
        result = read_result(request, raw, SENSE_SIZE, written)
        figures = self.figures
        if result is None:
            figures.fail("no_answer")
            result = ScsiResult(Response.FAILURE, ScsiStatus.GOOD, b"", request.out_size + request.in_size, b"")
        elif result.response is Response.OK:
            figures.done += 1
            figures.bytes += request.out_size + request.in_size - result.residual
        else:
            figures.fail(result.response.name.lower())
        self._initiator.on_response(request, result)

    def close(self) -> None:
        self._slots.close()


_UNANSWERED = RESPONSE.pack(0, 0, 0, 0, 0xFF).ljust(RESPONSE_SIZE, b"\0")


def split(segs: Sequence[Segment], size: int) -> tuple[list[Segment], list[Segment]]:
    """Return the segments of the first ``size`` bytes, and those of the rest."""
    first: list[Segment] = []
    rest: list[Segment] = []
    for addr, length in segs:
        part = min(size, length)
        if part:
            first.append((addr, part))
        if part < length:
            rest.append((Addr(addr + part), length - part))
        size -= part
    return first, rest


class VirtioScsiEventFlow:
    """The event queue. Each buffer returns to the ring as soon as its event was read."""

    def __init__(self, queue: DriverQueue, dma: DmaMemory, size: int, initiator: Initiator) -> None:
        self.queue = queue
        self._initiator = initiator
        self._buffers = BufferBlock(dma, min(EVENTS, queue.ring.num), size)

    def post(self) -> None:
        """Give all buffers to the device."""
        size = self._buffers.size
        self.queue.ring.add_each([(addr, size, index) for index, addr in enumerate(self._buffers.addrs)], True)

    def move(self) -> tuple[int, Wait]:
        moved, figures = 0, self._initiator.event_figures
        for index, written in self.queue.ring.get_each(self.queue.ring.num):
            data = bytes(self._buffers.views[index][: EVENT.size])
            self.queue.ring.add_each([(self._buffers.addrs[index], self._buffers.size, index)], True)
            moved += 1
            if written < EVENT.size:
                figures.drop("short")
                continue
            event, lun, reason = EVENT.unpack(data)
            missed = bool(event & EVENTS_MISSED)
            figures.packets += 1
            figures.bytes += EVENT.size
            self._initiator.publish_event(ScsiEvent(event & ~EVENTS_MISSED, Lun.parse(lun), reason, missed))
        return moved, QUEUE

    def close(self) -> None:
        self._buffers.close()
