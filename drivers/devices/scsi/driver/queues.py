"""The three kinds of queues of a SCSI host, at the driver's side."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.devices.scsi.driver.initiator import Initiator
from drivers.devices.scsi.driver.result import ScsiError, ScsiEvent, ScsiRequest, ScsiResult, read_result
from drivers.devices.scsi.layout import (
    CDB_SIZE,
    EVENT,
    EVENTS_MISSED,
    HEADER,
    RESPONSE,
    SENSE_SIZE,
    Lun,
    Response,
    Status,
)
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import Need, QueueFlow
from drivers.memory.buffers import BufferBlock
from drivers.storage.request_queue import RequestQueue
from rings.memory import Addr
from rings.queue import Segment

if TYPE_CHECKING:
    from drivers.devices.scsi.driver.driver import BoundScsi

__all__ = ["ControlFlow", "EventFlow", "RequestFlow"]

EVENTS = 16
"""Buffers for events."""
# A slot of a request holds header and response, one of the control queue question and answer. Whole cache lines.
HEADER_SIZE, RESPONSE_AT, RESPONSE_SIZE, SLOT = HEADER.size + CDB_SIZE, 64, RESPONSE.size + SENSE_SIZE, 192
ANSWER_AT, CONTROL_SLOT = 32, 64


class RequestFlow(RequestQueue[ScsiRequest, bytes]):
    """One request queue; an answer is the whole response."""

    def __init__(
        self,
        queue: DriverQueue,
        bound: BoundScsi,
        dma: DmaMemory,
        figures: RequestFigures,
    ) -> None:
        super().__init__(queue, bound.initiator, figures)
        self._bound = bound
        self._slots = BufferBlock(dma, queue.ring.num, SLOT)

    def room(self, request: ScsiRequest) -> bool:
        if not self._free or not self.queue.live or not self._bound.linked(request.lun):
            return False
        segs = 0 if request.buffer is None else len(request.buffer.segs) + 1
        return self.queue.ring.num_free >= (1 if self._bound.indirect else 2 + segs)

    def put(self, request: ScsiRequest, slot: int) -> None:
        view, addr = self._slots.views[slot], self._slots.addrs[slot]
        view[:HEADER_SIZE] = HEADER.pack(request.lun.emit(), request.tag, 0, 0, 0) + request.cdb.ljust(CDB_SIZE, b"\0")
        view[RESPONSE_AT : RESPONSE_AT + RESPONSE_SIZE] = _UNANSWERED
        out, into = split([] if request.buffer is None else request.buffer.segs, request.out_size)
        header: Segment = (addr, HEADER_SIZE)
        response: Segment = (Addr(addr + RESPONSE_AT), RESPONSE_SIZE)
        self.queue.ring.add((header, *out), (response, *into), slot)
        self._bound.link(request.lun, 1)

    def read(self, request: ScsiRequest, slot: int) -> bytes:
        return bytes(self._slots.views[slot][RESPONSE_AT : RESPONSE_AT + RESPONSE_SIZE])

    def end(self, request: ScsiRequest, raw: bytes, written: int) -> None:
        self._bound.link(request.lun, -1)
        result = read_result(request, raw, SENSE_SIZE, written)
        figures = self.figures
        if result is None:
            figures.fail("no_answer")
            result = ScsiResult(Response.FAILURE, Status.GOOD, b"", request.out_size + request.in_size, b"")
        elif result.response is Response.OK:
            figures.done += 1
            figures.bytes += request.out_size + request.in_size - result.residual
        else:
            figures.fail(result.response.name.lower())
        self._bound.initiator.answered(request, result)

    def close(self) -> None:
        self._slots.close()


_UNANSWERED = RESPONSE.pack(0, 0, 0, 0, 0xFF).ljust(RESPONSE_SIZE, b"\0")


def split(segs: Sequence[Segment], size: int) -> tuple[list[Segment], list[Segment]]:
    """The first ``size`` bytes, and the rest."""
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


@attrs.define(eq=False)
class _Question:
    data: bytes
    size: int
    over: trio.Event = attrs.field(factory=trio.Event)
    answer: bytes | None = None


class ControlFlow(QueueFlow):
    """The control queue: questions in the order of their making, answers in any."""

    def __init__(self, queue: DriverQueue, dma: DmaMemory, figures: RequestFigures) -> None:
        self.queue = queue
        self._figures = figures
        self._slots = BufferBlock(dma, queue.ring.num, CONTROL_SLOT)
        self._free = list(range(queue.ring.num))
        self._asked: dict[int, _Question] = {}
        self._waiting: deque[_Question] = deque()

    async def ask(self, data: bytes, size: int, /) -> bytes:
        """Raises ScsiError."""
        question = _Question(data, size)
        self._waiting.append(question)
        self._feed()
        if self.queue.live:
            self.queue.flush()
        await question.over.wait()
        if question.answer is None:
            raise ScsiError(Response.TRANSPORT_FAILURE, "the device went away before it answered")
        return question.answer

    def _feed(self) -> None:
        while self._waiting and self._free and self.queue.live and self.queue.ring.num_free >= 2:
            question, slot = self._waiting.popleft(), self._free.pop()
            view, addr = self._slots.views[slot], self._slots.addrs[slot]
            view[: len(question.data)] = question.data
            view[ANSWER_AT : ANSWER_AT + question.size] = b"\xff" * question.size
            self.queue.ring.add(((addr, len(question.data)),), ((Addr(addr + ANSWER_AT), question.size),), slot)
            self._asked[slot] = question
            self._figures.taken += 1

    def move(self) -> tuple[int, Need]:
        moved = 0
        while (used := self.queue.ring.get()) is not None:
            slot, written = used
            question = self._asked.pop(slot)
            answer = bytes(self._slots.views[slot][ANSWER_AT : ANSWER_AT + question.size])
            if written < question.size:  # not all of it was surely written, and the response is the last byte
                answer = bytes(question.size - 1) + bytes((Response.FAILURE,))
                self._figures.fail("no_answer")
            else:
                self._figures.done += 1
            question.answer = answer
            question.over.set()
            self._free.append(slot)
            moved += 1
        self._feed()
        return moved, Need.QUEUE

    def close(self) -> None:
        for question in (*self._asked.values(), *self._waiting):
            self._figures.fail("device_lost")
            question.over.set()
        self._slots.close()


class EventFlow(QueueFlow):
    """The event queue. Every buffer goes back into the ring as soon as its event was read."""

    def __init__(self, queue: DriverQueue, dma: DmaMemory, size: int, initiator: Initiator) -> None:
        self.queue = queue
        self._initiator = initiator
        self._buffers = BufferBlock(dma, min(EVENTS, queue.ring.num), size)

    def post(self) -> None:
        """Give the device every buffer there is."""
        size = self._buffers.size
        self.queue.ring.add_each([(addr, size, index) for index, addr in enumerate(self._buffers.addrs)], True)

    def move(self) -> tuple[int, Need]:
        moved, figures = 0, self._initiator.event_figures
        while (used := self.queue.ring.get()) is not None:
            index, written = used
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
        return moved, Need.QUEUE

    def close(self) -> None:
        self._buffers.close()
