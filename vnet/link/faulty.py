"""A link on which things go wrong, by seeded chance or by script; every fault is counted.

A register read that fails returns all-ones, as from a root complex whose completion timer ran out; a memory access
that fails raises a typed error and moves no byte. A request is never repeated here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count

import attrs
import trio

from drivers.flow.pump import Signal
from rings.errors import MemoryFault
from rings.memory import Addr
from vnet.errors import CompleterAbort, CompletionTimeout, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.base import Direction, Fault, Link, LinkStatistics, Region, Window, all_ones
from vnet.link.faults import Action, Flap, Request, Rule
from vnet.link.wrapper import LinkWrapper

__all__ = ["COMPLETION_TIMEOUT", "FaultyLink", "is_doorbell", "is_interrupt"]

COMPLETION_TIMEOUT = 0.05
"""Seconds until a completion counts as lost (2.8; the longest of the default range)."""
SAME_REQUEST = 0.001
"""Seconds for which an access that failed fails again: shorter than any recovery takes."""
LATE = "completion unexpected"
"""Counts completions that arrive after their time-out."""
WhichWrite = Callable[[int, int, int], bool]
"""Whether a write with this address, size in bytes and value is meant."""

ERRORS: dict[Action, tuple[type[MemoryFault], str]] = {
    Action.TIME_OUT: (CompletionTimeout, "no completion came in time"),
    Action.REFUSE: (UnsupportedRequest, "the other end does not support the request"),
    Action.ABORT: (CompleterAbort, "the other end gave the request up"),
    Action.POISON: (PoisonedData, "the data was poisoned on its way"),
    Action.FLAP: (LinkDown, "the link went down during the request"),
}


def is_doorbell(addr: int, size: int, value: int) -> bool:
    """Two bytes: queue notifications are, and few other registers."""
    return size == 2


def is_interrupt(addr: int, size: int, value: int) -> bool:
    """Four bytes: interrupt messages are, and an endpoint writes hardly anything else but through windows."""
    return size == 4


@attrs.define
class _Standing:
    """A rule, and what it saw and did so far."""

    rule: Rule
    seen: int = 0
    done: int = 0

    def strikes(self, age: float, rng: random.Random) -> bool:
        rule = self.rule
        if not rule.start <= age < rule.stop or self.done >= rule.limit:
            return False
        self.seen += 1
        # The die is cast for every request that a rule with a rate looks at: one seed, one course of events.
        if self.seen in rule.nth or (rule.rate > 0 and rng.random() < rule.rate):
            self.done += 1
            return True
        return False


class FaultyLink(LinkWrapper):
    """``run`` must be running for delayed effects: delays, late completions, ends of flaps."""

    lossy = True

    def __init__(
        self,
        inner: Link,
        rng: random.Random,
        rules: Iterable[Rule] = (),
        flaps: Sequence[Flap] = (),
        *,
        delay: float = 0.005,
        flap: float = 0.05,
        doorbell: WhichWrite = is_doorbell,
        interrupt: WhichWrite = is_interrupt,
    ) -> None:
        """``delay``: seconds that what is delayed takes; ``flap``: seconds of a flap that a request triggers.

        ``doorbell`` and ``interrupt`` say which writes downstream and upstream are such.
        """
        super().__init__(inner)
        self._rng = rng
        self._rules: dict[Request, list[_Standing]] = {request: [] for request in Request}
        self._delay, self._flap = delay, flap
        self._posted = {
            Direction.DOWNSTREAM: (Request.DOORBELL, doorbell),
            Direction.UPSTREAM: (Request.INTERRUPT, interrupt),
        }
        self._faults: Counter[str] = Counter()
        self._born = trio.current_time()
        self._wanted_up = True
        self._flapping = 0
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._planned = Signal()
        self.add(*rules)
        for planned in flaps:
            self._plan(self._born + planned.at, lambda planned=planned: self._start(planned))  # type: ignore[misc]

    def add(self, *rules: Rule) -> None:
        """Add rules, from now on."""
        for rule in rules:
            self._rules[rule.request].append(_Standing(rule))

    def clear(self) -> None:
        """Remove all rules; delayed effects still happen."""
        for standing in self._rules.values():
            standing.clear()

    # Link

    def bring_up(self) -> None:
        self._wanted_up = True
        if not self._flapping:
            self.inner.bring_up()

    def bring_down(self) -> None:
        self._wanted_up = False
        self.inner.bring_down()

    def config_read(self, function: int, offset: int, size: int) -> int:
        return self._answer(
            self._judge(Request.CONFIG_READ), size, lambda: self.inner.config_read(function, offset, size)
        )

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        def write() -> int:
            self.inner.config_write(function, offset, size, value)
            return 0

        self._answer(self._judge(Request.CONFIG_WRITE), size, write)

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        return self._answer(
            self._judge(Request.READ), size, lambda: self.inner.mem_read(direction, addr, size, function)
        )

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        special, meant = self._posted[direction]
        action = self._judge(special if meant(addr, size, value) else Request.WRITE)
        if action is None:
            self.inner.mem_write(direction, addr, size, value, function)
        elif action is Action.DELAY:
            self._plan_in_epoch(self._delay, lambda: self.inner.mem_write(direction, addr, size, value, function))

    def map(self, direction: Direction, addr: int, size: int, function: int = 0) -> Window:
        return _FaultyWindow(self.inner.map(direction, addr, size, function), self.name, self._judge_view)

    def statistics(self) -> LinkStatistics:
        return attrs.evolve(self.inner.statistics(), faults=dict(self._faults))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.inner.run)
            while True:
                with trio.move_on_at(self._later[0][0] if self._later else math.inf):
                    await self._planned.wait()
                while self._later and self._later[0][0] <= trio.current_time():
                    heappop(self._later)[2]()

    # Faults

    def _judge(self, request: Request) -> Action | None:
        """Decide, count and return the fault of this request; link-wide effects happen here."""
        if not self.inner.up:
            return None
        age = trio.current_time() - self._born
        for standing in self._rules[request]:
            if standing.strikes(age, self._rng):
                action = standing.rule.action
                self._faults[f"{request.value} {action.value}"] += 1
                if action is Action.FLAP:
                    self._start(Flap(0, self._flap))
                return action
        return None

    def _answer(self, action: Action | None, size: int, ask: Callable[[], int]) -> int:
        if action is None:
            return ask()
        if action is Action.COME_LATE:
            ask()
            self._plan_in_epoch(COMPLETION_TIMEOUT, self._came_late)
        return all_ones(size)

    def _judge_view(self, write: bool) -> Action | None:
        return self._judge(Request.DMA_WRITE if write else Request.DMA_READ)

    def _came_late(self) -> None:
        self._faults[LATE] += 1

    def _start(self, flap: Flap) -> None:
        now = trio.current_time()
        self._faults["link down"] += 1
        self._flapping += 1
        self._plan(now + flap.length, self._end_flap)
        if flap.times > 1:
            again = attrs.evolve(flap, times=flap.times - 1)
            self._plan(now + flap.every, lambda: self._start(again))
        self.inner.bring_down()

    def _end_flap(self) -> None:
        self._flapping -= 1
        if not self._flapping and self._wanted_up:
            self.inner.bring_up()

    def _plan(self, at: float, act: Callable[[], None]) -> None:
        heappush(self._later, (at, next(self._serial), act))
        self._planned.set()

    def _plan_in_epoch(self, delay: float, act: Callable[[], None]) -> None:
        epoch = self.epoch

        def still() -> None:
            if self.up and self.epoch == epoch:
                act()

        self._plan(trio.current_time() + delay, still)


class _FaultyWindow:
    """A window whose views may fail. Pinned views are memory that stays mapped: no request, and no fault."""

    def __init__(self, inner: Window, link: str, judge: Callable[[bool], Action | None]) -> None:
        self._inner = inner
        self._link = link
        self._judge = judge
        # What failed last, and until when it fails again; not the error itself, whose traceback keeps frames alive.
        self._failed: tuple[int, int, bool, Action] | None = None
        self._until = -math.inf
        self.pin = inner.pin
        self.unpin = inner.unpin
        self.fence = inner.fence

    @property
    def pinned(self) -> int:
        return self._inner.pinned

    def regions(self) -> Sequence[Region]:
        return self._inner.regions()

    def close(self, fault: Fault | None = None) -> None:
        self._inner.close(fault)

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        view = self._inner.view(addr, size, writable)
        self._check(addr, size, writable, (view,))
        return view

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = self._inner.segments(addr, size, writable)
        self._check(addr, size, writable, views)
        return views

    def _check(self, addr: int, size: int, write: bool, views: Iterable[memoryview]) -> None:
        again = self._again(addr, size, write)
        action = again or self._judge(write)
        if action is None:
            return
        if again is None:
            self._failed, self._until = (addr, size, write, action), trio.current_time() + SAME_REQUEST
        for view in views:
            view.release()
        error, reason = ERRORS[action]
        raise error(addr, size, write=write, reason=f"{reason} (link {self._link})")

    def _again(self, addr: int, size: int, write: bool) -> Action | None:
        """The same access again, because its error was taken for memory in pieces, or put off to the end of a batch:
        it is one request, and fails again."""
        if self._failed is None:
            return None
        if trio.current_time() > self._until:
            self._failed = None
            return None
        return self._failed[3] if self._failed[:3] == (addr, size, write) else None
