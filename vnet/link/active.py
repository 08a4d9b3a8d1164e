"""A rule of a link, with what it has done so far."""

from __future__ import annotations

import math
import random

import attrs

from vnet.link.faults import MS, Action, Flap, LinkRequest, Rule
from vnet.views.link import FaultRuleView, RuleOrigin, RuleState

__all__ = ["ActiveRule"]

NOTIFICATIONS = frozenset({LinkRequest.DOORBELL, LinkRequest.INTERRUPT})


@attrs.define(eq=False)
class ActiveRule:
    """A rule with the numbers of its requests and faults so far."""

    rule: Rule | Flap
    name: str
    """Name of the rule, which no other rule of the link has."""
    origin: RuleOrigin
    added: float
    """Time at which it was added."""
    delay: float
    """Seconds by which it delays requests."""
    requests: int = 0
    faults: int = 0

    @property
    def action(self) -> Action | None:
        """How requests fail; None for flaps."""
        return self.rule.action if isinstance(self.rule, Rule) else None

    @property
    def lossy(self) -> bool:
        """Whether the rule can lose a doorbell or an interrupt."""
        rule = self.rule
        return isinstance(rule, Rule) and rule.action is not Action.DELAY and bool(rule.requests & NOTIFICATIONS)

    def applies(self, now: float, rng: random.Random) -> bool:
        """Count a request, and return whether the rule applies to it. The rule must not be a flap."""
        rule = self.rule
        assert isinstance(rule, Rule)
        if not rule.start <= now - self.added < rule.stop or self.faults >= rule.limit:
            return False
        self.requests += 1
        # A rule with a rate draws a number for each of its requests, so that a seed determines all faults.
        if self.requests in rule.nth or (rule.rate > 0 and rng.random() < rule.rate):
            self.faults += 1
            return True
        return False

    def view(self, now: float) -> FaultRuleView:
        """Return the rule as it is now."""
        rule, age = self.rule, now - self.added
        base = FaultRuleView(
            name=self.name,
            fault=self.rule.name,
            origin=self.origin,
            state=self._state(age),
            left=None if math.isinf(rule.stop) else max(rule.stop - age, 0.0),
            requests=self.requests,
            faults=self.faults,
        )
        if isinstance(rule, Flap):
            return attrs.evolve(
                base, every_ms=rule.every / MS if math.isfinite(rule.every) else None, flap_ms=rule.length / MS
            )
        counted = math.isfinite(rule.limit)
        return attrs.evolve(
            base,
            rate=None if counted or rule.nth else rule.rate,
            count=int(rule.limit) if counted and not rule.nth else None,
            nth=tuple(sorted(rule.nth)),
            delay_ms=self.delay / MS if rule.action is Action.DELAY else None,
        )

    def _state(self, age: float) -> RuleState:
        rule = self.rule
        if isinstance(rule, Flap):
            return "spent" if self.faults >= rule.times else "in force"
        if age < rule.start:
            return "waits"
        spent = self.faults >= rule.limit or (not rule.rate and self.requests >= max(rule.nth, default=0))
        return "spent" if spent else "in force"
