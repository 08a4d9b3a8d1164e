"""The driver's side of a queue of questions: put a question, await its answer.

questions = QuestionFlow(queue, device.ops.dma, question=24, answer=1)
nursery.start_soon(pump, questions)
answer = await questions.ask(b"...", 1)
questions.close()  # after the reset of the device
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from drivers.bus.virtio import DriverQueue
from drivers.contracts.hw import DmaMemory
from drivers.errors import TransportLost
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import QUEUE, Wait
from drivers.memory.buffers import BufferBlock, block_memory
from drivers.memory.pool import CACHE_LINE
from rings.memory import Addr

__all__ = ["QUESTION_SEGMENTS", "QuestionFlow", "question_memory"]

QUESTION_SEGMENTS = 2
"""Descriptors of the longest chain: question, answer."""
UNANSWERED = b"\xff"
"""Contents of an answer that the device did not write."""


@attrs.define(eq=False)
class _Question:
    """A question that waits for its answer."""

    data: bytes
    size: int
    least: int
    answer: bytes | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)


def _answer_offset(question: int) -> int:
    """Return the offset of the answer in a slot: it has cache lines of its own."""
    return -(-question // CACHE_LINE) * CACHE_LINE


def _slots(num: int, limit: int | None) -> int:
    most = max(1, num // QUESTION_SEGMENTS)
    return most if limit is None else min(limit, most)


def question_memory(num: int, *, question: int, answer: int, limit: int | None = None) -> int:
    """Return the maximum bytes of memory of a `QuestionFlow` in a ring of ``num`` descriptors."""
    return block_memory(_slots(num, limit), _answer_offset(question) + answer)


class QuestionFlow:
    """The flow of a queue of questions, and `ask`, which uses it.

    Questions are sent in order. The device may answer in any order.
    """

    def __init__(
        self,
        queue: DriverQueue,
        dma: DmaMemory,
        *,
        question: int,
        answer: int,
        limit: int | None = None,
        figures: RequestFigures | None = None,
    ) -> None:
        """Allocate slots for questions and answers of at most so many bytes. Raises MemoryError.

        ``limit``: maximum number of questions in flight; None for as many as the ring holds.
        """
        self.queue = queue
        self.figures = RequestFigures() if figures is None else figures
        self.size = answer
        """Maximum bytes of an answer."""
        self._at = _answer_offset(question)
        self._slots = BufferBlock(dma, _slots(queue.ring.num, limit), self._at + answer)
        self._unanswered = memoryview(UNANSWERED * answer)
        self._free = list(range(len(self._slots.addrs)))
        self._backlog: deque[_Question] = deque()
        self._in_flight: dict[int, _Question] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of questions that are not sent yet."""
        return len(self._backlog)

    async def ask(self, data: bytes, size: int, *, least: int | None = None) -> bytes:
        """Send a question, and return the answer of at most ``size`` bytes, as far as the device wrote it.

        An answer of fewer than ``least`` bytes, by default ``size``, is none: it counts as an error, and b"" is
        returned. A question whose caller is cancelled is not sent any more. Raises TransportLost if the device is
        reset before it answers.
        """
        question = _Question(data, size, size if least is None else least)
        if not self._closed:
            self._backlog.append(question)
            self.queue.signal.set()
            try:
                await question.answered.wait()
            finally:
                if question in self._backlog:
                    self._backlog.remove(question)
        if question.answer is None:
            raise TransportLost("the device was reset before it answered")
        return question.answer

    def move(self) -> tuple[int, Wait]:
        ring = self.queue.ring
        answers = ring.get_each(ring.num)
        for slot, written in answers:
            self._take(slot, written)
        sent = 0
        while self._backlog and self._free:
            self._send(self._backlog.popleft(), self._free.pop())
            sent += 1
        return len(answers) + sent, QUEUE

    def _send(self, question: _Question, slot: int) -> None:
        view, addr = self._slots.views[slot], self._slots.addrs[slot]
        view[: len(question.data)] = question.data
        view[self._at : self._at + question.size] = self._unanswered[: question.size]
        out = ((addr, len(question.data)),) if question.data else ()
        self.queue.ring.add(out, ((Addr(addr + self._at), question.size),), slot)
        self._in_flight[slot] = question
        self.figures.taken += 1

    def _take(self, slot: int, written: int) -> None:
        question = self._in_flight.pop(slot)
        size = min(written, question.size)
        if size < question.least:
            size = 0
            self.figures.fail("no_answer")
        else:
            self.figures.done += 1
        question.answer = bytes(self._slots.views[slot][self._at : self._at + size])
        question.answered.set()
        self._free.append(slot)

    def close(self) -> None:
        """End all questions, after a reset of the device, and free the slots."""
        self._closed = True
        for _ in self._in_flight:
            self.figures.fail("device_lost")
        for question in (*self._in_flight.values(), *self._backlog):
            question.answered.set()
        self._in_flight.clear()
        self._backlog.clear()
        self._slots.close()
