"""Runs of Trio under a jumping clock and a seeded order of tasks. Only this module uses Trio's private names for that.

Trio runs the tasks that are ready in random order. For tests with Hypothesis, a switch has it sort them by their age
and shuffle them with one generator, which can be seeded. The switch has no public name;
`tests/sim/test_vnet_sim_scheduler.py` fails if it no longer does what it did.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
from trio._core import _run as private
from trio.testing import MockClock

__all__ = ["PASSES", "SchedulerUnknown", "TimeStands", "run_seeded"]

T = TypeVar("T")
PASSES = 100_000
"""Passes over the ready tasks at one instant of simulated time, after which a run counts as an endless loop."""
SWITCH, DICE = "_ALLOW_DETERMINISTIC_SCHEDULING", "_r"
"""Trio's switch for a deterministic order, and the generator that shuffles tasks."""


class SchedulerUnknown(Exception):
    """This version of Trio has no deterministic order of tasks under the names that this module knows."""


class TimeStands(Exception):
    """Tasks kept each other busy, so that simulated time did not pass."""


class _PassLimit(trio.abc.Instrument):
    """Ends a run whose time stands still. A pass that only runs tasks costs one call."""

    def __init__(self, clock: trio.abc.Clock) -> None:
        self._clock = clock
        self._time = -1.0
        self._passes = 0
        self.scope = trio.CancelScope()
        self.stood: float | None = None
        """Time at which the run was ended."""

    def before_io_wait(self, timeout: float) -> None:
        now = self._clock.current_time()
        if now != self._time:
            self._time, self._passes = now, 0
            return
        self._passes += 1
        if self._passes == PASSES:
            self.stood = now
            self.scope.cancel()


def run_seeded(main: Callable[[], Awaitable[T]], order: random.Random) -> T:
    """Run ``main`` and return its result. Time is simulated and starts at 0; ``order`` decides the order of tasks.

    Nothing but ``main`` may run Trio in this process meanwhile. Raises SchedulerUnknown, TimeStands, and what ``main``
    raises.
    """
    clock = MockClock(autojump_threshold=0)
    limit = _PassLimit(clock)

    async def limited() -> list[T]:
        results = []
        with limit.scope:
            results.append(await main())
        return results

    with _ordered(order):
        results = trio.run(limited, clock=clock, instruments=[limit])
    if not results:
        raise TimeStands(f"time stands still at {limit.stood:.9f} s: {PASSES} passes over the ready tasks")
    return results[0]


@contextmanager
def _ordered(order: random.Random) -> Iterator[None]:
    """Have Trio shuffle its tasks by ``order`` during the context."""
    dice = getattr(private, DICE, None)
    if not hasattr(private, SWITCH) or not isinstance(dice, random.Random):
        raise SchedulerUnknown(f"Trio {trio.__version__} keeps its order of tasks elsewhere: use an older version")
    before, state = getattr(private, SWITCH), dice.getstate()
    setattr(private, SWITCH, True)
    dice.setstate(order.getstate())
    try:
        yield
    finally:
        setattr(private, SWITCH, before)
        dice.setstate(state)
