"""Errors of a flow: the effect on its queue, and the bugs that must propagate."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest

from drivers.flow.pump import BATCH_BUCKETS, Need, QueueFlow, Signal, pump
from rings.errors import MemoryFault, RemoteRingError


class Queue:
    """A queue's end with one view of its ring."""

    def __init__(self) -> None:
        self.live = True
        self.batches = [0] * BATCH_BUCKETS
        self.signal = Signal()
        self.view = memoryview(bytearray(16))
        self.error: RemoteRingError | MemoryFault | None = None

    def reachable(self) -> bool:
        try:
            return bool(len(self.view))
        except ValueError:
            return False

    def quiet(self) -> None:
        pass

    def begin_turn(self) -> None: ...

    def rearm(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        self.error = error
        self.live = False


class Flow(QueueFlow):
    def __init__(self, step: Callable[[Queue], object]) -> None:
        self.queue = Queue()
        self._step = step

    def move(self) -> tuple[int, Need]:
        self._step(self.queue)
        return 0, Need.QUEUE


USES: dict[str, Callable[[memoryview], object]] = {
    "load": operator.itemgetter(0),
    "slice": operator.itemgetter(slice(0, 2)),
    "store": lambda view: view.__setitem__(0, 1),
    "length": len,
    "copy": bytes,
    "cast": lambda view: view.cast("H"),
    "list": list,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_any_use_of_a_released_view_means_that_the_memory_of_the_ring_went_away(
    use: Callable[[memoryview], object],
) -> None:
    def step(queue: Queue) -> None:
        queue.view.release()
        use(queue.view)

    flow = Flow(step)
    await pump(flow)
    assert isinstance(flow.queue.error, MemoryFault)
    assert "went away" in str(flow.queue.error)


@pytest.mark.parametrize("gone", [False, True], ids=["memory is there", "memory went away"])
@pytest.mark.parametrize("live", [False, True], ids=["queue went down", "queue is live"])
async def test_any_other_bad_value_is_a_bug_and_comes_out(gone: bool, live: bool) -> None:
    def step(queue: Queue) -> None:
        queue.live = live
        if gone:
            queue.view.release()
        raise ValueError("6 is not a valid GsoType")

    flow = Flow(step)
    with pytest.raises(ValueError, match="GsoType"):
        await pump(flow)
    assert flow.queue.error is None


async def test_a_released_view_of_something_else_is_a_bug_and_comes_out() -> None:
    other = memoryview(b"another")
    other.release()
    with pytest.raises(ValueError, match="released"):
        await pump(Flow(lambda queue: other[0]))
