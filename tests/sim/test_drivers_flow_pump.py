"""The drain loop: which task moves a batch, and the effect of errors on the queue."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing

from drivers.errors import PortGone
from drivers.flow.pump import AGAIN, BATCH_BUCKETS, END, QUEUE, Signal, Wait, pump
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


class Flow:
    def __init__(self, step: Callable[[Queue], object], wait: Wait = QUEUE) -> None:
        self.queue = Queue()
        self._step = step
        self._wait = wait

    def move(self) -> tuple[int, Wait]:
        self._step(self.queue)
        return 0, self._wait


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


class Waiting:
    """A flow that waits for each of ``waits`` in turn, and notes which task moved."""

    def __init__(self, *waits: Wait) -> None:
        self.queue = Queue()
        self.waits = list(waits)
        self.movers: list[trio.lowlevel.Task] = []

    def move(self) -> tuple[int, Wait]:
        self.movers.append(trio.lowlevel.current_task())
        return 1, self.waits.pop(0)


async def test_a_batch_is_moved_by_the_task_that_signals_the_flows_wait(nursery: trio.Nursery) -> None:
    """Its own task moves only what comes once the flow waits for something else."""
    port = Signal()
    readable = port.wait
    flow = Waiting(readable, readable, readable, QUEUE, QUEUE, QUEUE, readable, readable)
    nursery.start_soon(partial(pump, flow, in_place=True))
    await trio.testing.wait_all_tasks_blocked()
    here, own = trio.lowlevel.current_task(), flow.movers.pop()
    port.set()
    port.set()
    assert (flow.movers, port.awaited) == ([here, here], True)
    port.set()
    assert (flow.movers.pop(), port.awaited) == (here, False), "it waits for its queue now"
    await trio.testing.wait_all_tasks_blocked()
    assert flow.movers.pop() is own
    flow.queue.signal.set()
    assert flow.movers.pop() is here
    flow.queue.signal.set()
    assert (flow.movers.pop(), flow.queue.signal.awaited) == (here, False)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_flow_on_a_link_that_takes_time_moves_everything_itself(nursery: trio.Nursery, in_place: bool) -> None:
    port = Signal()
    flow = Waiting(*[port.wait] * 2)
    nursery.start_soon(partial(pump, flow, trio.lowlevel.checkpoint if in_place else None, in_place=in_place))
    await trio.testing.wait_all_tasks_blocked()
    port.set()
    await trio.testing.wait_all_tasks_blocked()
    assert flow.movers == [flow.movers[0]] * 2
    assert flow.movers[0] is not trio.lowlevel.current_task()
    nursery.cancel_scope.cancel()


async def test_a_flow_that_ends_is_moved_no_more_and_its_last_batch_is_published() -> None:
    flow, flushed = Waiting(AGAIN, END), list[int]()
    flow.queue.flush = lambda: flushed.append(len(flow.movers))  # type: ignore[method-assign]
    await pump(flow, in_place=True)
    assert flushed == [0, 1, 2]
    assert not flow.waits


async def test_notifications_are_disabled_once_if_the_ring_has_work_at_once() -> None:
    flow, disabled = Waiting(QUEUE, QUEUE, END), list[int]()
    flow.queue.rearm = lambda: True  # type: ignore[method-assign]
    flow.queue.quiet = lambda: disabled.append(len(flow.movers))  # type: ignore[method-assign]
    await pump(flow)
    assert disabled == [0, 1, 2]


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_lost_port_ends_the_flow_after_a_last_flush(in_place: bool) -> None:
    port, flushes, gone = Signal(), list[int](), False

    def step(queue: Queue) -> None:
        queue.flush = lambda: flushes.append(len(flushes))  # type: ignore[method-assign]
        if gone:
            raise PortGone("the interface was deleted")

    flow = Flow(step, port.wait)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_port_gone, flow, in_place)
        await trio.testing.wait_all_tasks_blocked()
        gone = True
        port.set()
        assert not flushes
    assert flushes == [0]
    assert flow.queue.error is None


async def expect_port_gone(flow: Flow, in_place: bool) -> None:
    with pytest.raises(PortGone, match="was deleted"):
        await pump(flow, in_place=in_place)
