"""A link with faults, by seeded chance or by script; counts every fault.

Rules come and go at any time. While there is none, a request costs one call more than on the link inside, and a view
nothing. A register read that fails returns all-ones, as from a root complex whose completion timer ran out; a memory
access that fails raises a typed error and moves no byte. A request is never repeated here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import count

import attrs
import trio

from drivers.contracts.events import NO_EVENTS, Events, FaultInjected, FaultRuleEnded, FaultRuleSet, Source
from vnet.link.active import ActiveRule
from vnet.link.agenda import Agenda
from vnet.link.base import Counting, Direction, Link, Window, all_ones
from vnet.link.faults import Action, Flap, LinkRequest, Rule
from vnet.link.judged import JudgedWindows
from vnet.link.wrapper import LinkWrapper
from vnet.views.link import FaultRuleView, LinkStatistics, RuleOrigin

__all__ = ["COMPLETION_TIMEOUT", "FaultyLink", "is_doorbell", "is_interrupt"]

COMPLETION_TIMEOUT = 0.05
"""Seconds until a completion counts as lost (2.8; the longest of the default range)."""
DMA = frozenset({LinkRequest.DMA_READ, LinkRequest.DMA_WRITE})
LATE = "completion unexpected"
"""Counts completions that arrive after their time-out."""
WhichWrite = Callable[[int, int, int], bool]
"""Predicate over a write's address, size in bytes, and value."""


def is_doorbell(addr: int, size: int, value: int) -> bool:
    """Return whether a write looks like a queue notification: two bytes, as few other registers have."""
    return size == 2


def is_interrupt(addr: int, size: int, value: int) -> bool:
    """Return whether a write looks like an interrupt message: four bytes; endpoints write other data by windows."""
    return size == 4


class FaultyLink(LinkWrapper):
    """``run`` must be running for delayed effects: delays, late completions, flaps, ends of rules."""

    def __init__(
        self,
        inner: Link,
        rng: random.Random,
        rules: Iterable[Rule | Flap] = (),
        *,
        delay: float = 0.005,
        flap: float = 0.05,
        doorbell: WhichWrite = is_doorbell,
        events: Events = NO_EVENTS,
    ) -> None:
        """``rules`` are those of the topology.

        ``delay``: seconds by which requests are delayed by default; ``flap``: seconds of a flap that a request
        triggers. ``doorbell`` returns whether a write downstream is one.
        """
        super().__init__(inner)
        self._rng = rng
        self._active: list[ActiveRule] = []
        self._by_request: dict[LinkRequest, tuple[ActiveRule, ...]] = {}
        """Rules by the requests that they are about; empty while there is none."""
        self._windows = JudgedWindows(inner.name, self._judge_view)
        self._lossy = False
        self._loss_watchers: list[Callable[[bool], None]] = []
        self._delay, self._flap = delay, flap
        self._reports = events
        self._posted = {
            Direction.DOWNSTREAM: (LinkRequest.DOORBELL, doorbell),
            Direction.UPSTREAM: (LinkRequest.INTERRUPT, is_interrupt),
        }
        self._faults: Counter[str] = Counter()
        self._enabled = True
        self._flapping = 0
        self._agenda = Agenda()
        for rule in rules:
            self._add(rule, "topology")
        self._adapt()

    # Rules

    @property
    def lossy(self) -> bool:
        """Whether a rule of the link can lose a doorbell or an interrupt, or one can get lost behind the link."""
        return self._lossy or self.inner.lossy

    def watch_losses(self, watcher: Callable[[bool], None]) -> None:
        """Call ``watcher`` with `lossy` whenever that changes."""
        self._loss_watchers.append(watcher)

    def rules(self) -> tuple[FaultRuleView, ...]:
        """Return the rules, with what each has done."""
        now = trio.current_time()
        return tuple(active.view(now) for active in self._active)

    def add(self, *rules: Rule | Flap) -> None:
        """Add rules, from now on."""
        for rule in rules:
            self._add(rule, "hand")
        self._adapt()

    def replace(self, faults: Collection[str], rules: Iterable[Rule | Flap]) -> None:
        """Add rules instead of all other rules by hand for these ``faults``."""
        self._remove([each for each in self._by_hand if each.rule.name in faults], "replaced")
        self.add(*rules)

    def clear(self, *names: str) -> None:
        """Remove the rules with these names; without names, all rules by hand. Delayed effects still happen."""
        chosen = [each for each in self._active if each.name in names] if names else self._by_hand
        self._remove(chosen, "cleared")
        self._adapt()

    @property
    def _by_hand(self) -> list[ActiveRule]:
        return [active for active in self._active if active.origin == "hand"]

    def _add(self, rule: Rule | Flap, origin: RuleOrigin) -> None:
        now = trio.current_time()
        delay = self._delay if isinstance(rule, Flap) or rule.delay is None else rule.delay
        active = ActiveRule(rule, self._free_name(rule), origin, now, delay)
        self._active.append(active)
        if isinstance(rule, Flap):
            self._agenda.plan(now + rule.at, partial(self._begin_flap, active))
        if math.isfinite(rule.stop):
            self._agenda.plan(now + rule.stop, partial(self._expire, active))
        if origin == "hand" and (emit := self._reports.links) is not None:
            view = active.view(now)
            emit(FaultRuleSet(now, self._source, view.name, view.fault, view.amount, view.left or 0.0))

    def _free_name(self, rule: Rule | Flap) -> str:
        """Return a name for a rule, with a number if another rule has its name already."""
        taken = {active.name for active in self._active}
        if rule.name not in taken:
            return rule.name
        return next(name for number in count(2) if (name := f"{rule.name}-{number}") not in taken)

    def _expire(self, active: ActiveRule) -> None:
        if active in self._active:
            self._remove([active], "expired")
            self._adapt()

    def _remove(self, chosen: Iterable[ActiveRule], cause: str) -> None:
        for each in chosen:
            self._active.remove(each)
            if (emit := self._reports.links) is not None:
                ended = each.name, each.rule.name, cause, each.requests, each.faults
                emit(FaultRuleEnded(trio.current_time(), self._source, *ended))

    def _adapt(self) -> None:
        """Judge the requests that the rules are about, and no others."""
        by_request: dict[LinkRequest, list[ActiveRule]] = {}
        for active in self._active:
            if isinstance(active.rule, Rule):
                for request in active.rule.requests:
                    by_request.setdefault(request, []).append(active)
        self._by_request = {request: tuple(rules) for request, rules in by_request.items()}
        self._windows.switch(not DMA.isdisjoint(by_request))
        lossy = any(active.lossy for active in self._active)
        if lossy != self._lossy:
            self._lossy = lossy
            for watcher in self._loss_watchers:
                watcher(self.lossy)

    # Link

    def bring_up(self) -> None:
        self._enabled = True
        if not self._flapping:
            self.inner.bring_up()

    def bring_down(self) -> None:
        self._enabled = False
        self.inner.bring_down()

    def config_read(self, function: int, offset: int, size: int) -> int:
        if not self._by_request:
            return self.inner.config_read(function, offset, size)
        return self._answer(
            self._judge(LinkRequest.CONFIG_READ), size, lambda: self.inner.config_read(function, offset, size)
        )

    def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        if not self._by_request:
            self.inner.config_write(function, offset, size, value)
            return

        def write() -> int:
            self.inner.config_write(function, offset, size, value)
            return 0

        self._answer(self._judge(LinkRequest.CONFIG_WRITE), size, write)

    def mem_read(self, direction: Direction, addr: int, size: int, function: int = 0) -> int:
        if not self._by_request:
            return self.inner.mem_read(direction, addr, size, function)
        return self._answer(
            self._judge(LinkRequest.READ), size, lambda: self.inner.mem_read(direction, addr, size, function)
        )

    def mem_write(self, direction: Direction, addr: int, size: int, value: int, function: int = 0) -> None:
        if not self._by_request:
            self.inner.mem_write(direction, addr, size, value, function)
            return
        special, is_special = self._posted[direction]
        if is_special(addr, size, value):
            active = self._judge(special, (function, addr, value))
        else:
            active = self._judge(LinkRequest.WRITE)
        if active is None:
            self.inner.mem_write(direction, addr, size, value, function)
        elif active.action is Action.DELAY:
            self._plan_in_epoch(active.delay, lambda: self.inner.mem_write(direction, addr, size, value, function))

    def direct(self) -> Counting | None:
        watched = getattr(self.mem_write, "__func__", None) is not FaultyLink.mem_write
        return None if self._by_request or watched else self.inner.direct()

    def map(self, direction: Direction, addr: int, size: int, function: int = 0) -> Window:
        return self._windows.add(self.inner.map(direction, addr, size, function))

    def statistics(self) -> LinkStatistics:
        return attrs.evolve(self.inner.statistics(), faults=dict(self._faults), rules=self.rules())

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.inner.run)
            await self._agenda.run()

    # Faults

    def _judge(self, request: LinkRequest, write: Sequence[int] = ()) -> ActiveRule | None:
        """Return the rule by which this request fails, counted; link-wide effects happen here.

        ``write``: function, address and value of a doorbell or an interrupt.
        """
        if not self.inner.up:
            return None
        now = trio.current_time()
        for active in self._by_request.get(request, ()):
            if active.applies(now, self._rng):
                assert active.action is not None
                self._count(request.value, active.action.value, active.name, write)
                if active.action is Action.FLAP:
                    self._go_down(self._flap, active.name)
                return active
        return None

    def _answer(self, active: ActiveRule | None, size: int, access: Callable[[], int]) -> int:
        if active is None:
            return access()
        if active.action is Action.COME_LATE:
            access()
            self._plan_in_epoch(COMPLETION_TIMEOUT, self._count_late)
        return all_ones(size)

    def _judge_view(self, write: bool) -> Action | None:
        active = self._judge(LinkRequest.DMA_WRITE if write else LinkRequest.DMA_READ)
        return None if active is None else active.action

    @property
    def _source(self) -> Source:
        return Source(link=self.name)

    def _count(self, request: str, fault: str, rule: str, write: Sequence[int] = ()) -> None:
        self._faults[f"{request} {fault}"] += 1
        if (emit := self._reports.links) is not None:
            emit(FaultInjected(trio.current_time(), self._source, request, fault, rule, *write))

    def _count_late(self) -> None:
        self._faults[LATE] += 1

    def _begin_flap(self, active: ActiveRule) -> None:
        flap = active.rule
        if active in self._active and isinstance(flap, Flap) and active.faults < flap.times:
            active.faults += 1
            self._agenda.plan(trio.current_time() + flap.every, partial(self._begin_flap, active))
            self._go_down(flap.length, active.name)

    def _go_down(self, length: float, rule: str) -> None:
        """Take the link down for ``length`` seconds."""
        self._count("link", "down", rule)
        self._flapping += 1
        self._agenda.plan(trio.current_time() + length, self._end_flap)
        self.inner.bring_down()

    def _end_flap(self) -> None:
        self._flapping -= 1
        if not self._flapping and self._enabled:
            self.inner.bring_up()

    def _plan_in_epoch(self, delay: float, act: Callable[[], None]) -> None:
        epoch = self.epoch

        def act_in_epoch() -> None:
            if self.up and self.epoch == epoch:
                act()

        self._agenda.plan(trio.current_time() + delay, act_in_epoch)
