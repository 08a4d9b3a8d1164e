"""A link with faults, by seeded chance or by script; counts every fault.

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

from drivers.contracts.events import NO_EVENTS, Events, FaultInjected, Source
from drivers.flow.pump import Signal
from rings.errors import MemoryFault
from vnet.errors import CompleterAbort, CompletionTimeout, LinkDown, PoisonedData, UnsupportedRequest
from vnet.link.base import Direction, Link, Window, all_ones
from vnet.link.faults import Action, Flap, LinkRequest, Rule
from vnet.link.wrapper import LinkWrapper, WindowWrapper
from vnet.views.link import LinkStatistics

__all__ = ["COMPLETION_TIMEOUT", "FaultyLink", "is_doorbell", "is_interrupt"]

COMPLETION_TIMEOUT = 0.05
"""Seconds until a completion counts as lost (2.8; the longest of the default range)."""
SAME_REQUEST = 0.001
"""Seconds in which a repetition of a failed access fails again: shorter than any recovery takes."""
LATE = "completion unexpected"
"""Counts completions that arrive after their time-out."""
WhichWrite = Callable[[int, int, int], bool]
"""Predicate over a write's address, size in bytes, and value."""

ERRORS: dict[Action, tuple[type[MemoryFault], str]] = {
    Action.TIME_OUT: (CompletionTimeout, "no completion came in time"),
    Action.REFUSE: (UnsupportedRequest, "the other end does not support the request"),
    Action.ABORT: (CompleterAbort, "the other end gave the request up"),
    Action.POISON: (PoisonedData, "the data was poisoned on its way"),
    Action.FLAP: (LinkDown, "the link went down during the request"),
}


def is_doorbell(addr: int, size: int, value: int) -> bool:
    """Return whether a write looks like a queue notification: two bytes, as few other registers have."""
    return size == 2


def is_interrupt(addr: int, size: int, value: int) -> bool:
    """Return whether a write looks like an interrupt message: four bytes; endpoints write other data by windows."""
    return size == 4


@attrs.define
class _ActiveRule:
    """A rule, with the number of its requests and faults so far."""

    rule: Rule
    requests: int = 0
    faults: int = 0

    def applies(self, age: float, rng: random.Random) -> bool:
        """Return whether the rule applies to the next request; ``age`` of the link in seconds."""
        rule = self.rule
        if not rule.start <= age < rule.stop or self.faults >= rule.limit:
            return False
        self.requests += 1
        # A rule with a rate draws a number for each of its requests, so that a seed determines all faults.
        if self.requests in rule.nth or (rule.rate > 0 and rng.random() < rule.rate):
            self.faults += 1
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
        events: Events = NO_EVENTS,
    ) -> None:
        """``delay``: seconds by which requests are delayed; ``flap``: seconds of a flap that a request triggers.

        ``doorbell`` returns whether a write downstream is one.
        """
        super().__init__(inner)
        self._rng = rng
        self._rules: dict[LinkRequest, list[_ActiveRule]] = {request: [] for request in LinkRequest}
        self._delay, self._flap = delay, flap
        self._reports = events
        self._posted = {
            Direction.DOWNSTREAM: (LinkRequest.DOORBELL, doorbell),
            Direction.UPSTREAM: (LinkRequest.INTERRUPT, is_interrupt),
        }
        self._faults: Counter[str] = Counter()
        self._created = trio.current_time()
        self._enabled = True
        self._flapping = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._event_added = Signal()
        self.add(*rules)
        for planned in flaps:
            self._plan(self._created + planned.at, lambda planned=planned: self._start(planned))  # type: ignore[misc]

    def add(self, *rules: Rule) -> None:
        """Add rules, from now on."""
        for rule in rules:
            self._rules[rule.request].append(_ActiveRule(rule))

    def clear(self) -> None:
        """Remove all rules; delayed effects still happen."""
        for rules in self._rules.values():
            rules.clear()

    # Link

    def bring_up(self) -> None:
        self._enabled = True
        if not self._flapping:
            self.inner.bring_up()

    def bring_down(self) -> None:
        self._enabled = False
        self.inner.bring_down()

    def config_read(self, function: int, offset: int, size: int) -> int:
        return self._answer(
            self._judge(LinkRequest.CONFIG_READ), size, lambda: self.inner.config_read(function, offset, size)
        )

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        def write() -> int:
            self.inner.config_write(function, offset, size, value)
            return 0

        self._answer(self._judge(LinkRequest.CONFIG_WRITE), size, write)

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        return self._answer(
            self._judge(LinkRequest.READ), size, lambda: self.inner.mem_read(direction, addr, size, function)
        )

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        special, is_special = self._posted[direction]
        action = self._judge(special if is_special(addr, size, value) else LinkRequest.WRITE)
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
                with trio.move_on_at(self._events[0][0] if self._events else math.inf):
                    await self._event_added.wait()
                while self._events and self._events[0][0] <= trio.current_time():
                    heappop(self._events)[2]()

    # Faults

    def _judge(self, request: LinkRequest) -> Action | None:
        """Decide, count and return the fault of this request; link-wide effects happen here."""
        if not self.inner.up:
            return None
        age = trio.current_time() - self._created
        for active in self._rules[request]:
            if active.applies(age, self._rng):
                action = active.rule.action
                self._count(request.value, action.value)
                if action is Action.FLAP:
                    self._start(Flap(0, self._flap))
                return action
        return None

    def _answer(self, action: Action | None, size: int, access: Callable[[], int]) -> int:
        if action is None:
            return access()
        if action is Action.COME_LATE:
            access()
            self._plan_in_epoch(COMPLETION_TIMEOUT, self._count_late)
        return all_ones(size)

    def _judge_view(self, write: bool) -> Action | None:
        return self._judge(LinkRequest.DMA_WRITE if write else LinkRequest.DMA_READ)

    def _count(self, request: str, fault: str) -> None:
        self._faults[f"{request} {fault}"] += 1
        if (emit := self._reports.links) is not None:
            emit(FaultInjected(trio.current_time(), Source(link=self.name), request, fault))

    def _count_late(self) -> None:
        self._faults[LATE] += 1

    def _start(self, flap: Flap) -> None:
        now = trio.current_time()
        self._count("link", "down")
        self._flapping += 1
        self._plan(now + flap.length, self._end_flap)
        if flap.times > 1:
            following = attrs.evolve(flap, times=flap.times - 1)
            self._plan(now + flap.every, lambda: self._start(following))
        self.inner.bring_down()

    def _end_flap(self) -> None:
        self._flapping -= 1
        if not self._flapping and self._enabled:
            self.inner.bring_up()

    def _plan(self, at: float, act: Callable[[], None]) -> None:
        heappush(self._events, (at, next(self._serial), act))
        self._event_added.set()

    def _plan_in_epoch(self, delay: float, act: Callable[[], None]) -> None:
        epoch = self.epoch

        def act_in_epoch() -> None:
            if self.up and self.epoch == epoch:
                act()

        self._plan(trio.current_time() + delay, act_in_epoch)


class _FaultyWindow(WindowWrapper):
    """A window whose views may fail. Pinned views are memory that stays mapped: no request, and no fault."""

    def __init__(self, inner: Window, link: str, judge: Callable[[bool], Action | None]) -> None:
        super().__init__(inner)
        self._link = link
        self._judge = judge
        # The last failed access, and the time until which it fails again. Not the error: its traceback keeps frames.
        self._failed: tuple[int, int, bool, Action] | None = None
        self._until = -math.inf

    def accessed(self, addr: int, size: int, write: bool, views: Sequence[memoryview]) -> None:
        repeated = self._repeated(addr, size, write)
        action = repeated or self._judge(write)
        if action is None:
            return
        if repeated is None:
            self._failed, self._until = (addr, size, write, action), trio.current_time() + SAME_REQUEST
        for view in views:
            view.release()
        error, reason = ERRORS[action]
        raise error(addr, size, write=write, reason=f"{reason} (link {self._link})")

    def _repeated(self, addr: int, size: int, write: bool) -> Action | None:
        """Return the last access's fault if this is the same access: a ring can repeat one request, because it took
        the error for fragmented memory, or deferred it to the end of a batch."""
        if self._failed is None:
            return None
        if trio.current_time() > self._until:
            self._failed = None
            return None
        return self._failed[3] if self._failed[:3] == (addr, size, write) else None
