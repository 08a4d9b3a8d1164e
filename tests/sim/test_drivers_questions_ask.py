"""Questions and answers over one ring of either format: who asks waits for the answer, whatever comes between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from drivers.bus.device_queue import DeviceQueue, OfferedQueue
from drivers.bus.virtio import DriverQueue, QueueSpec
from drivers.contracts.events import SILENT
from drivers.errors import TransportLost
from drivers.flow.pump import pump
from drivers.memory.vring import VringMemory
from drivers.questions.answer import AnswerFlow
from drivers.questions.ask import QUESTION_SEGMENTS, QuestionFlow, question_memory
from rings.chain import Chain, copy_in, copy_out, total
from rings.errors import BadChain
from rings.features import RingFeature, mask
from rings.formats import ring_format
from vnet.linux.memory import HostMemory

settled = trio.testing.wait_all_tasks_blocked
FEATURES = {"split": 0, "packed": mask((RingFeature.RING_PACKED,))}


class Device:
    """The owner of the device's queue: calls arrive at the driver's queue."""

    lossy = False
    reporter = SILENT

    def __init__(self, features: int, driver: DriverQueue) -> None:
        self.features = features
        self.ops = self
        self.failures: list[str] = []
        self._driver = driver

    def call(self, queue: DeviceQueue) -> None:
        self._driver.on_call()

    def fail(self, reason: str) -> None:
        self.failures.append(reason)


class Line:
    """A driver's queue and a device's queue over one ring, and the flow that asks."""

    def __init__(self, kind: str, num: int, limit: int | None) -> None:
        self.memory = HostMemory(1 << 20)
        features = FEATURES[kind]
        vring = VringMemory(self.memory).make(features, num, None, QUESTION_SEGMENTS, "test")
        self.driver = DriverQueue(0, QueueSpec("questions"), vring.ring, self.kick)
        self.owner = Device(features, self.driver)
        self.device = DeviceQueue(self.owner, 0, OfferedQueue("questions", num))
        self.device.begin(ring_format(features).vringh(self.memory, num, vring.addrs, features, meter=None))
        before = self.memory.statistics().used
        self.flow = QuestionFlow(self.driver, self.memory, question=8, answer=16, limit=limit)
        assert 0 < self.memory.statistics().used - before <= question_memory(num, question=8, answer=16, limit=limit)

    def kick(self) -> None:
        self.device.signal.set()

    def reset(self) -> None:
        if self.driver.live:
            self.driver.close()
            self.device.close()
            self.flow.close()


@pytest.fixture(params=FEATURES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def echo(chain: Chain) -> int:
    """Answer with the question in capitals."""
    _, readable, writable = chain
    return copy_in(writable, copy_out(readable, total(readable)).upper())


@asynccontextmanager
async def open_line(
    kind: str, answer: Callable[[Chain], int] | None, *, num: int = 8, limit: int | None = None
) -> AsyncIterator[Line]:
    line = Line(kind, num, limit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, line.flow)
        if answer is not None:
            nursery.start_soon(pump, AnswerFlow(line.device, answer))
        yield line
        line.reset()
        nursery.cancel_scope.cancel()


async def test_each_question_gets_its_own_answer(kind: str) -> None:
    async with open_line(kind, echo) as line:
        answers: dict[int, bytes] = {}

        async def ask(at: int) -> None:
            answers[at] = await line.flow.ask(b"no %03d" % at, 6)

        async with trio.open_nursery() as nursery:
            for at in range(40):  # many more than the ring holds
                nursery.start_soon(ask, at)
        assert answers == {at: b"NO %03d" % at for at in range(40)}
        assert (line.flow.figures.taken, line.flow.figures.done, line.flow.figures.errors) == (40, 40, {})


async def test_a_question_may_be_empty_and_its_answer_shorter_than_the_room_for_it(kind: str) -> None:
    async with open_line(kind, lambda chain: copy_in(chain[2], b"hello")) as line:
        assert await line.flow.ask(b"", 16, least=1) == b"hello"


async def test_an_answer_that_is_too_short_is_none_and_counted(kind: str) -> None:
    async with open_line(kind, lambda chain: copy_in(chain[2], b"hello")) as line:
        assert await line.flow.ask(b"", 16) == b""
        assert await line.flow.ask(b"", 16, least=6) == b""
        assert line.flow.figures.errors == {"no_answer": 2}
        assert await line.flow.ask(b"", 5) == b"hello"


async def test_bytes_that_the_device_did_not_write_are_never_those_of_an_earlier_answer(kind: str) -> None:
    honest = True

    def answer(chain: Chain) -> int:
        return echo(chain) if honest else 6

    async with open_line(kind, answer, limit=1) as line:
        assert await line.flow.ask(b"secret", 6) == b"SECRET"
        honest = False
        assert await line.flow.ask(b"secret", 6) == b"\xff" * 6


async def test_at_most_so_many_questions_are_in_flight(kind: str) -> None:
    async with open_line(kind, None, limit=3) as line, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(line.flow.ask, b"anyone?", 1)
        await settled()
        assert (line.flow.figures.taken, line.flow.waiting) == (3, 2)
        nursery.cancel_scope.cancel()


async def test_a_question_whose_caller_gave_up_is_not_sent_any_more(kind: str) -> None:
    async with open_line(kind, None, limit=1) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.flow.ask, b"first", 1)
        await settled()
        with trio.move_on_after(1):
            await line.flow.ask(b"second", 1)
        seen: list[bytes] = []

        def answer(chain: Chain) -> int:
            seen.append(copy_out(chain[1], total(chain[1])))
            return copy_in(chain[2], b"!")

        nursery.start_soon(pump, AnswerFlow(line.device, answer))
        assert await line.flow.ask(b"third", 1) == b"!"
        assert seen == [b"first", b"third"]
        nursery.cancel_scope.cancel()


async def test_a_reset_ends_all_questions_sent_or_not(kind: str) -> None:
    async with open_line(kind, None, limit=1) as line:
        lost: list[str] = []

        async def ask() -> None:
            with pytest.raises(TransportLost) as caught:
                await line.flow.ask(b"?", 1)
            lost.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await settled()
            line.reset()
        assert lost == ["the device was reset before it answered"] * 2
        assert line.flow.figures.errors == {"device_lost": 1}, "the other one was never sent"
        await ask()


async def test_a_chain_that_violates_the_rules_breaks_the_queue_after_those_before_it_are_answered(kind: str) -> None:
    def answer(chain: Chain) -> int:
        if not chain[1]:
            raise BadChain(chain[0], "no question")
        return echo(chain)

    async with open_line(kind, answer) as line, trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def ask(data: bytes) -> None:
            answers.append(await line.flow.ask(data, 3))

        nursery.start_soon(ask, b"yes")
        await settled()
        nursery.start_soon(ask, b"")
        await settled()
        assert answers == [b"YES"]
        assert len(line.owner.failures) == 1
        assert "no question" in line.owner.failures[0]
        nursery.cancel_scope.cancel()
