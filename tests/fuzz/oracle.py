"""Rules for every input: no error but documented ones, bounded work between checkpoints, nothing left open.

A target catches the documented errors itself, so that each error that leaves it is a finding. Work is counted in calls
of functions, of Python and C, never in time: counting starts for an input that took long, and always for the corpus.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import attrs
import trio
import trio.abc
import trio.testing

from fuzz.table import Target

__all__ = ["CALLS_MAX", "Finding", "Judge", "run_tasks"]

CALLS_MAX = 100_000
"""Calls of functions between two checkpoints: some 20 to 50 ms of an idle processor."""
SLOW = 0.1
"""Seconds after which an input is run again with counted calls."""
SAMPLE = 64
"""One of so many inputs is run with counted calls in any case."""
WARM_UP = 2_000
"""Inputs before the first count of objects: caches and modules fill."""
EVERY = 4_096
"""Inputs between two counts of objects."""
GROWTH = 0.2
"""Blocks of memory for each input above which memory grows: one for five inputs. Bounded caches fill more slowly."""
GROWTH_AFTER = 20_000
"""Inputs between the counts that are compared, before which growth is not judged."""
DEADLINE = 120.0
"""Seconds of simulated time after which a target with tasks hangs."""
FDS = Path("/proc/self/fd")


class Finding(AssertionError):
    """An input broke a rule that holds for all inputs."""


@attrs.define(eq=False)
class _Calls(trio.abc.Instrument):
    """Counts calls since the last checkpoint."""

    count: int = 0
    most: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            self.count += 1
            if self.count > self.most:
                self.most = self.count
                if self.count > CALLS_MAX:
                    raise Finding(f"{CALLS_MAX} calls without a checkpoint, the last one in {frame.f_code.co_name}")


_counting: list[_Calls] = []
"""The counter of the input that is run, if calls are counted."""


def run_tasks(function: Callable[[], Awaitable[None]]) -> None:
    """Run an async function under a clock that jumps. Raises Finding if it waits for ever."""

    async def limited() -> None:
        with trio.move_on_after(DEADLINE) as scope:
            await function()
        if scope.cancelled_caught:
            raise Finding(f"no end after {DEADLINE:g} s of simulated time")

    trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0), instruments=tuple(_counting))


def open_fds() -> int:
    return sum(1 for _ in FDS.iterdir())


class Judge:
    """Runs a target with one input after another. `calls_max` is the most work between checkpoints that was counted."""

    def __init__(self, target: Target, report: Callable[[Judge], None] | None = None) -> None:
        """``report`` is called after each count of objects."""
        self.target = target
        self.report = report
        self.count = 0
        self.calls_max = 0
        self.samples: list[tuple[int, int]] = []
        """Inputs so far, and blocks of memory in use then."""
        self._run = target.load()

    def __call__(self, data: bytes, *, counted: bool = False) -> None:
        """Run one input; with ``counted``, count its calls at once. Raises Finding, or an error of the code."""
        counted = counted or not self.count % SAMPLE
        before = open_fds() if self.target.opens else 0
        started = time.perf_counter()
        if not counted:
            self._run(data)
        if counted or time.perf_counter() - started > SLOW:
            self._run_counted(data)
        if self.target.opens and (after := open_fds()) > before:
            raise Finding(f"{after - before} file descriptors more than before")
        self.count += 1
        if self.count == WARM_UP or (self.count > WARM_UP and self.count % EVERY == 0):
            self._sample()

    def _run_counted(self, data: bytes) -> None:
        calls = _Calls()
        _counting.append(calls)
        sys.setprofile(calls)
        try:
            self._run(data)
        finally:
            sys.setprofile(None)
            _counting.clear()
        self.calls_max = max(self.calls_max, calls.most)

    @property
    def growth(self) -> float | None:
        """Blocks of memory for each input in the later half of the run; None before there are two counts."""
        if len(self.samples) < 2:
            return None
        (first, blocks), (last, now) = self._compared
        return (now - blocks) / (last - first)

    @property
    def _compared(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.samples[(len(self.samples) - 1) // 2], self.samples[-1]

    def _sample(self) -> None:
        gc.collect()
        self.samples.append((self.count, sys.getallocatedblocks()))
        growth = self.growth
        if self.report is not None:
            self.report(self)
        if growth is not None and growth > GROWTH:
            (first, _), (last, _) = self._compared
            if last - first >= GROWTH_AFTER:
                raise Finding(f"memory grows by {growth:.2f} blocks with each input")
