"""The one drain loop, and the signal that wakes it.

A task per flow, never per packet: quiet the other side, move a batch, publish its index once, tell the
other side once if it wants to be told, re-arm, look again, and only then wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Protocol

import trio

from drivers.errors import PortGone
from rings.errors import MemoryFault, RemoteRingError
from rings.memory import was_released

__all__ = [
    "BATCHES",
    "BATCH_BUCKETS",
    "RECHECK",
    "Flow",
    "Need",
    "QueueEnd",
    "QueueFlow",
    "Signal",
    "count_batch",
    "pump",
    "wait_for_notification",
]

BATCH_BUCKETS = 9
"""Batches are counted by size: 1, 2-3, 4-7, ... in powers of two, the last bucket takes the rest."""
BATCHES = 4
"""Batches after which a flow that could go on lets others run."""
RECHECK = 0.01
"""Seconds between two looks at a queue where a notification can get lost."""


class Signal:
    """A flag that a handler sets and one task awaits. It stays set until a wait returns: a cancelled one leaves it."""

    __slots__ = ("_set", "_task", "recheck", "rescues", "serve")

    def __init__(self, recheck: float | None = None) -> None:
        self.recheck = recheck
        """Seconds after which a wait ends all the same, where whoever sets it may be lost on the way; None: never."""
        self.rescues = 0
        """Times that somebody then found what it should have been told of."""
        self.serve: Callable[[], bool] | None = None
        """Called instead of waking who waits; False wakes it all the same."""
        self._set = False
        self._task: trio.lowlevel.Task | None = None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it now."""
        return self._task is not None

    def set(self) -> None:
        if self._task is None:
            self._set = True
        elif self.serve is None or not self.serve():
            self.wake()

    def wake(self) -> None:
        """Do what `set` does, but leave the work to the task that waits, never to the caller."""
        task, self._task = self._task, None
        if task is None:
            self._set = True
        else:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> bool:
        """True once `set` was called since the last return, False when ``recheck`` is over. One task at a time."""
        if self.recheck is None:
            await self._wait()
            return True
        with trio.move_on_after(self.recheck):
            await self._wait()
            return True
        return False

    async def _wait(self) -> None:
        if self._set:
            await trio.lowlevel.checkpoint_if_cancelled()  # before it is consumed: else the next wait would miss it
            self._set = False
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        assert self._task is None, "two tasks wait for one signal"
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class Need(Enum):
    """What a flow lacks to go on."""

    TURN = "turn"
    """Nothing: its budget is used up."""
    QUEUE = "queue"
    """The other side has to add or return buffers."""
    SOURCE = "source"
    """The port has nothing to read."""
    SINK = "sink"
    """The port takes nothing more for now."""


class QueueEnd(Protocol):
    """One side's end of a queue, driver's or device's, as the pump sees it."""

    @property
    def live(self) -> bool:
        """False once the ring was taken down: nothing may be touched any more."""

    @property
    def batches(self) -> list[int]:
        """Batches so far, by size."""

    @property
    def signal(self) -> Signal:
        """Set when the other side notifies."""

    def reachable(self) -> bool:
        """Whether the ring's memory is still there."""

    def begin_turn(self) -> None:
        """Others had a turn: the flow may do as much work as one may have, in its own task or in place."""

    def quiet(self) -> None:
        """Ask the other side not to notify."""

    def rearm(self) -> bool:
        """Ask it to notify; True when there is something to do already."""

    def flush(self) -> None:
        """Publish what was done, and tell the other side if it wants to be told."""

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        """The other side broke the ring, or its memory is not reachable: stop this queue."""


class Flow(Protocol):
    """One direction of one queue between a ring and a port."""

    @property
    def queue(self) -> QueueEnd: ...

    def move(self) -> tuple[int, Need]:
        """Move up to a budget of packets; how many, and what it lacks to go on. Never waits."""

    async def wait(self, need: Need) -> None:
        """Wait until the port has (SOURCE) or takes (SINK) something. Raises PortGone."""

    def on_port_gone(self, error: PortGone) -> None:
        """The port was taken away; this flow is over."""


class QueueFlow:
    """What flows share that need nothing but their queue: there is no port."""

    async def wait(self, need: Need) -> None:
        raise AssertionError(f"{type(self).__name__} has no {need.value} to wait for")

    def on_port_gone(self, error: PortGone) -> None:
        """Nothing can go away."""


async def pump(
    flow: Flow,
    settle: Callable[[], Awaitable[None]] | None = None,
    *,
    in_place: bool = False,
    source: Signal | None = None,
) -> None:
    """Run ``flow`` until its queue goes down, breaks, or its port is gone.

    ``settle`` is awaited once per batch before the index is published: it sleeps out what the link is owed.
    With ``in_place``, and nothing to settle, a batch is moved where the notification arrives: in the task of
    whoever sent it, who has published and waits for nothing. That saves waking a task for each batch. The same goes for
    ``source``, where that is what tells the flow that its port has something to read.
    This is the one place where the other side's violations are caught.
    """
    queue = flow.queue
    drain = _Drain(flow, queue)
    try:
        if in_place and settle is None:
            queue.signal.serve = drain.serve_notification
            if source is not None:
                source.serve = drain.serve_readable
        await drain.run(settle)
    except (RemoteRingError, MemoryFault) as exc:
        queue.fail(exc)
        if queue.reachable():
            queue.flush()  # what was done before the bad chain stays done
    except ValueError as exc:
        # The memory went away under the ring between two batches. Any other ValueError is a bug of the flow.
        if not was_released(exc) or (queue.live and queue.reachable()):
            raise
        queue.fail(MemoryFault(0, 0, write=False, reason="the ring's memory went away"))
    except PortGone as exc:
        if queue.live and queue.reachable():
            queue.flush()
        flow.on_port_gone(exc)
    finally:
        queue.signal.serve = None
        if source is not None:
            source.serve = None


class _Drain:
    """The loop of `pump`, and the same step taken in somebody else's task."""

    def __init__(self, flow: Flow, queue: QueueEnd) -> None:
        self._flow = flow
        self._queue = queue
        self._busy = False
        self._error: Exception | None = None

    async def run(self, settle: Callable[[], Awaitable[None]] | None) -> None:
        flow, queue = self._flow, self._queue
        turns = 0
        if queue.live:
            queue.flush()  # what was added before the device was live
            queue.quiet()
        while queue.live:
            moved, need = flow.move()
            if moved:
                count_batch(queue.batches, moved)
                if settle is not None:
                    await settle()
                    if not queue.live:
                        return
                queue.flush()
            if need is Need.TURN:
                turns += 1
                if turns % BATCHES == 0:
                    await trio.lowlevel.checkpoint()
                    queue.begin_turn()
            elif need is not Need.QUEUE:
                turns = 0
                await flow.wait(need)
                queue.begin_turn()
                self._check()
            elif queue.rearm():
                queue.quiet()
                await trio.lowlevel.checkpoint()
                queue.begin_turn()
            else:
                await wait_for_notification(queue)
                queue.begin_turn()
                self._check()
                if queue.live:
                    queue.quiet()

    def _check(self) -> None:
        """Raises what went wrong in somebody else's task, and keeps it no longer: it holds the frames that met it, and
        with them memory of the other side's.
        """
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def serve_notification(self) -> bool:
        """The other side notified, while `run` waits for just that; whether it may go on waiting."""
        return self._queue.live and self._step(told=True) is Need.QUEUE

    def serve_readable(self) -> bool:
        """The port has something, while `run` waits for just that; whether it may go on waiting."""
        return self._queue.live and self._step(told=False) is Need.SOURCE

    def _step(self, *, told: bool) -> Need | None:
        """Move one batch in the notifier's task; what the flow needs next, or None to wake `run`.

        One batch is all that a notifier pays for: it may notify many queues in one turn. Errors are raised by `run`.
        """
        queue = self._queue
        if self._busy or self._error is not None:
            return None
        self._busy = True
        try:
            if told:
                queue.quiet()  # as all that touches the ring: its memory may be gone
            moved, need = self._flow.move()
            if moved:
                count_batch(queue.batches, moved)
                queue.flush()
            if told and need is Need.QUEUE and queue.rearm():
                return None
        except Exception as exc:  # noqa: BLE001  whatever it is, it is this flow's: raised again in its own task
            self._error = exc
            return None
        finally:
            self._busy = False
        return need


def count_batch(batches: list[int], moved: int) -> None:
    """One more batch, of so many, which is at least 1."""
    batches[min(moved.bit_length() - 1, len(batches) - 1)] += 1


async def wait_for_notification(queue: QueueEnd) -> None:
    """Wait until the other side notifies, or until a look of our own finds that it must have done so in vain.

    Only a signal with ``recheck`` ever looks: a lost notification then costs that many seconds, and not the queue.
    """
    while not await queue.signal.wait():
        if not queue.live:
            return
        if queue.rearm():
            queue.signal.rescues += 1
            return
