"""Post-conditions of every test, and bounds on how soon a result must be there."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Self

import trio
import trio.testing

from rings.memory import Addr
from vnet.host.host import Host
from vnet.system.limited import LINES, PER
from vnet.testing.pair import Pair

__all__ = ["TURNS", "Turns", "bounded", "unharmed", "until"]

CANARY = 0xC5
LOOK = 0.001
TURNS = 20_000
"""Steps of tasks within which every test has its result; an endless loop takes more."""


@asynccontextmanager
async def unharmed(pair: Pair) -> AsyncIterator[None]:
    """Check that the body leaks nothing, writes only granted memory, logs little, and leaves a device that works.

    Afterwards the device is reset and brought up, a hashed megabyte crosses in each direction, and the
    footprint is what it was. A second device must have kept running without any of this. No logger may have written
    more than 10 lines of one level in 5 seconds.
    """
    with _LineCount() as lines:
        async with _unharmed(pair):
            yield
    assert not lines.floods, f"more than {LINES} lines in {PER:g} s: {lines.floods}"


@asynccontextmanager
async def _unharmed(pair: Pair) -> AsyncIterator[None]:
    await trio.testing.wait_all_tasks_blocked()
    before = pair.footprint()
    canaries = _Canaries(pair.rc)
    others = [d for d in pair.world.devices.values() if d is not pair.device]
    resets = [d.vhost.resets for d in others]
    yield
    canaries.check()
    assert [d.vhost.resets for d in others] == resets, "another device was reset"
    await pair.reset()
    await pair.transfer()
    await trio.testing.wait_all_tasks_blocked()
    after = pair.footprint()
    if not after.within(before):
        gc.collect()  # memory stays mapped until the last slice of it is gone, which may be garbage by now
        after = pair.footprint()
    assert after.within(before), f"something was not given back:\n{before}\n{after}"


class _LineCount(logging.Handler):
    """Finds loggers that write more than `LINES` lines of a level, and one that counts the others, in `PER` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._times: dict[tuple[str, int], deque[float]] = {}
        self.floods: set[str] = set()

    def __enter__(self) -> Self:
        logging.getLogger("vnet").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("vnet").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            now = trio.current_time()
        except RuntimeError:  # in a thread of its own
            return
        times = self._times.setdefault((record.name, record.levelno), deque(maxlen=LINES + 2))
        times.append(now)
        if len(times) > LINES + 1 and times[-1] - times[0] < PER:
            self.floods.add(record.name)


class _Canaries:
    """Marks in free memory: a write there is a write outside of granted memory."""

    STEP, SIZE = 64 << 10, 64

    def __init__(self, host: Host) -> None:
        self._memory = host.memory
        self._places = list(self._free())
        for addr in self._places:
            host.memory.view(Addr(addr), self.SIZE, True)[:] = bytes([CANARY]) * self.SIZE

    def check(self) -> None:
        """Check the marks that are still in free memory: allocations may have used the others rightly."""
        still = set(self._free())
        for addr in self._places:
            content = bytes(self._memory.view(Addr(addr), self.SIZE))
            if addr in still and any(content):  # what was handed out in between was zeroed, and is free again
                assert content.count(CANARY) == self.SIZE, f"memory at {addr:#x} was written although it is free"

    def _free(self) -> Iterator[int]:
        for low, high in self._memory._pool._free:
            yield from range(-(-low // self.STEP) * self.STEP, high - self.SIZE, self.STEP)


class Turns(trio.abc.Instrument):
    def __init__(self, limit: int, scope: trio.CancelScope) -> None:
        self.count = 0
        self._limit = limit
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == self._limit:
            self._scope.cancel()


@contextmanager
def bounded(turns: int = TURNS, seconds: float = 1.0) -> Iterator[Turns]:
    """A verdict falls inside: within ``seconds`` of simulated time and ``turns`` steps of all tasks together.

    Under a jumping clock a task that never waits keeps time from passing, so that steps are counted as well. Raises
    AssertionError.
    """
    with trio.move_on_after(seconds) as limit, trio.CancelScope() as scope:
        counter = Turns(turns, scope)
        trio.lowlevel.add_instrument(counter)
        try:
            yield counter
        finally:
            trio.lowlevel.remove_instrument(counter)
    assert not scope.cancelled_caught, f"no verdict within {turns} steps"
    assert not limit.cancelled_caught, f"no verdict within {seconds} s of simulated time"


async def until(holds: Callable[[], object], seconds: float = 1.0, turns: int = TURNS) -> None:
    """Poll until ``holds()`` is true. Raises AssertionError like `bounded`."""
    with bounded(turns, seconds):
        while not holds():  # noqa: ASYNC110  registers and counters wake no task
            await trio.sleep(LOOK)
