"""The drain loop of all flows, and the signal that wakes it.

Each flow has one task, not one per packet. The loop disables the other side's notifications, moves a batch, publishes
its index once, notifies at most once, enables notifications again, re-checks the ring, and only then waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from types import TracebackType
from typing import Final, Protocol

import trio

from drivers.errors import PortGone
from rings.errors import MemoryFault, RemoteRingError
from rings.memory import was_released

__all__ = [
    "Stopping",
    "AGAIN",
    "BATCHES",
    "BATCH_BUCKETS",
    "END",
    "QUEUE",
    "RECHECK",
    "Flow",
    "QueueEnd",
    "Serve",
    "Signal",
    "Wait",
    "count_batch",
    "pump",
    "rescue",
    "wait_for_work",
]

BATCH_BUCKETS = 9
"""Buckets of the batch size histogram: 1, 2-3, 4-7, ... in powers of two; the last one takes all larger batches."""
BATCHES = 4
"""Batches that a flow moves before it lets other tasks run."""
IN_PLACE_BATCHES = 2
"""Batches that a flow moves in the task that signals: the first is often full, and the second finds nothing left."""
RECHECK = 0.01
"""Re-check interval in seconds of a queue whose notifications can get lost."""


Serve = Callable[[], bool]
"""Serves an event in the task that signals it. Returns False to wake the waiting task instead."""


class Signal:
    """A flag that handlers set and one task awaits. It stays set until a wait returns; a cancelled wait keeps it."""

    __slots__ = ("_serve", "_set", "_task", "recheck", "rescues")

    def __init__(self, recheck: float | None = None) -> None:
        self.recheck = recheck
        """Re-check interval in seconds, for links that can lose a notification; None: wait until set."""
        self.rescues = 0
        """Lost notifications: re-checks that found work."""
        self._set = False
        self._task: trio.lowlevel.Task | None = None
        self._serve: Serve | None = None

    @property
    def awaited(self) -> bool:
        """Whether a task is waiting."""
        return self._task is not None

    @property
    def serves(self) -> bool:
        """Whether a task waits and lets `set` serve it."""
        return self._serve is not None

    def set(self) -> None:
        """Set the flag. If a task waits, call the ``serve`` of its wait here, or wake it."""
        if self._task is None:
            self._set = True
        elif self._serve is None or not self._serve():
            self.wake()

    def wake(self) -> None:
        """Set the flag and wake the waiting task, without its ``serve``."""
        task, self._task, self._serve = self._task, None, None
        if task is None:
            self._set = True
        else:
            trio.lowlevel.reschedule(task)

    def set_recheck(self, recheck: float | None) -> None:
        """Change ``recheck``, and end the wait under way: its caller looks for work, then waits as long as that."""
        if recheck != self.recheck:
            self.recheck = recheck
            self.wake()

    async def wait(self, serve: Serve | None = None) -> bool:
        """Wait for `set`. Returns False after ``recheck`` seconds without it, else True.

        With ``serve``, `set` calls that in its own task as long as this wait lasts, and the wait ends only once it
        returns False. Raises trio.BusyResourceError if another task waits already.
        """
        if self.recheck is None:
            await self._wait(serve)
            return True
        with trio.move_on_after(self.recheck):
            await self._wait(serve)
            return True
        return False

    async def _wait(self, serve: Serve | None) -> None:
        if self._task is not None:
            raise trio.BusyResourceError("another task waits for this signal")
        if self._set:
            await trio.lowlevel.checkpoint_if_cancelled()  # before the flag is cleared, else a cancelled wait loses it
            self._set = False
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._task, self._serve = trio.lowlevel.current_task(), serve

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = self._serve = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class Next(Enum):
    """A flow's next step unless it waits for something of its own."""

    AGAIN = "again"
    QUEUE = "queue"
    END = "end"


AGAIN: Final = Next.AGAIN
"""Move again: the budget of this batch is used up."""
QUEUE: Final = Next.QUEUE
"""Wait for buffers from the other side."""
END: Final = Next.END
"""Move nothing any more: the pump returns."""
Wait = Next | Callable[[Serve | None], Awaitable[object]]
"""A flow's next wait: `AGAIN`, `QUEUE`, `END`, or a function to await, such as the ``wait`` of a signal.

A flow returns the same object whenever it waits for the same thing: the pump compares them by identity.
"""


class QueueEnd(Protocol):
    """The driver's or the device's end of a queue, as the pump uses it."""

    @property
    def live(self) -> bool:
        """Whether the ring may be accessed."""

    @property
    def batches(self) -> list[int]:
        """Histogram of batch sizes, see `BATCH_BUCKETS`."""

    @property
    def signal(self) -> Signal:
        """Set when the other side notifies."""

    def reachable(self) -> bool:
        """Return whether the ring's memory is still mapped."""

    def begin_turn(self) -> None:
        """Renew the flow's work budget, after other tasks had a turn."""

    def quiet(self) -> None:
        """Disable notifications from the other side."""

    def rearm(self) -> bool:
        """Enable notifications. Returns True if work is left already."""

    def flush(self) -> None:
        """Publish completed work, and notify the other side if it wants that."""

    def fail(self, error: RemoteRingError | MemoryFault) -> None:
        """Stop this queue after a ring violation or an unreachable memory access."""


class Flow(Protocol):
    """One direction of one queue between a ring and a port."""

    @property
    def queue(self) -> QueueEnd: ...

    def move(self) -> tuple[int, Wait]:
        """Move packets up to a budget, without waiting. Returns their number, and what the flow waits for next."""


async def pump(
    flow: Flow,
    settle: Callable[[], Awaitable[None]] | None = None,
    *,
    in_place: bool = False,
) -> None:
    """Run ``flow`` until it ends, or its queue closes or breaks. Raises PortGone if the flow's port was removed.

    ``settle`` is awaited once per batch before the index is published: it sleeps until the link has carried the batch.
    With ``in_place`` and without ``settle``, a batch is moved in the task that signals what the flow waits for: the
    other side's, which has published its own work, or the port's. That saves waking a task per batch.
    """
    queue = flow.queue
    with Stopping(queue):
        try:
            await _Drain(flow, queue).run(settle, in_place=in_place)
        except PortGone:
            if queue.live and queue.reachable():
                queue.flush()
            raise


class Stopping:
    """Stops a queue if the body meets a ring violation by the other side, or memory that is out of reach.

    No other place stops a running queue for that. As a generator, it would keep the error in a cycle,
    and by its traceback the peer's memory, until the collector runs.
    """

    def __init__(self, queue: QueueEnd) -> None:
        self._queue = queue

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        queue = self._queue
        match error:
            case RemoteRingError() | MemoryFault():
                queue.fail(error)
                if queue.reachable():
                    queue.flush()  # publish the chains completed before the bad one
                return True
            # The ring's memory was unmapped between two batches. Any other ValueError is a bug of the flow.
            case ValueError() if was_released(error) and not (queue.live and queue.reachable()):
                queue.fail(MemoryFault(0, 0, write=False, reason="the ring's memory went away"))
                return True
        return False


class _Drain:
    """The loop of `pump`, and its single step in the task that signals."""

    def __init__(self, flow: Flow, queue: QueueEnd) -> None:
        self._flow = flow
        self._queue = queue
        self._awaited: Wait = AGAIN  # what `run` waits for
        self._busy = False
        self._error: Exception | None = None

    async def run(self, settle: Callable[[], Awaitable[None]] | None, *, in_place: bool) -> None:
        flow, queue = self._flow, self._queue
        serve = self._serve if in_place and settle is None else None
        turns = 0
        if queue.live:
            queue.flush()  # buffers added before DRIVER_OK
            queue.quiet()
        while queue.live:
            moved, wait = flow.move()
            if moved:
                count_batch(queue.batches, moved)
                if settle is not None:
                    await settle()
                    if not queue.live:
                        return
                queue.flush()
            if wait is AGAIN:
                turns += 1
                if turns % BATCHES == 0:
                    await trio.lowlevel.checkpoint()
                    queue.begin_turn()
            elif wait is END:
                return
            elif wait is QUEUE:
                self._awaited = wait
                notifications_on = await wait_for_work(queue, serve)
                queue.begin_turn()
                self._check()
                if notifications_on and queue.live:
                    queue.quiet()
            else:
                turns = 0
                self._awaited = wait
                await wait(serve)
                queue.begin_turn()
                self._check()

    def _check(self) -> None:
        """Re-raise an error caught while serving in place.

        Drops our reference to it, because its traceback keeps the peer's memory alive.
        """
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def _serve(self) -> bool:
        """Move batches in the task that signals what `run` waits for. Returns whether `run` may go on waiting.

        The signaller pays for few batches only, because it may signal many flows in one turn. `run` re-raises errors.
        """
        queue, awaited = self._queue, self._awaited
        if not queue.live or self._busy or self._error is not None:
            return False
        from_peer = awaited is QUEUE
        self._busy = True
        try:
            if from_peer:
                queue.quiet()  # inside the try, like all ring accesses: the memory may be unmapped
            for _ in range(IN_PLACE_BATCHES):
                moved, wait = self._flow.move()
                if moved:
                    count_batch(queue.batches, moved)
                    queue.flush()
                if wait is not AGAIN or not queue.live:
                    break
            return wait is awaited and not (from_peer and queue.rearm())
        except Exception as exc:  # noqa: BLE001  any error belongs to this flow, whose own task re-raises it
            self._error = exc
            return False
        finally:
            self._busy = False


def count_batch(batches: list[int], moved: int) -> None:
    """Count a batch of ``moved`` >= 1 packets."""
    batches[min(moved.bit_length() - 1, len(batches) - 1)] += 1


async def wait_for_work(queue: QueueEnd, serve: Serve | None = None) -> bool:
    """Enable notifications, re-check the ring, and wait until the other side notifies or a re-check finds work.

    Only a signal with ``recheck`` re-checks again: then a lost notification costs that many seconds instead of the
    queue. ``serve`` is that of `Signal.wait`. Returns whether notifications are still enabled: False if the ring had
    work at once.
    """
    if queue.rearm():
        queue.quiet()
        await trio.lowlevel.checkpoint()
        return False
    while not await queue.signal.wait(serve):
        if not queue.live or rescue(queue):
            break
    return True


def rescue(queue: QueueEnd) -> bool:
    """Re-check a live queue after a possibly lost notification. Counts and returns whether it has work."""
    work_left = queue.rearm()
    queue.signal.rescues += work_left
    return work_left
