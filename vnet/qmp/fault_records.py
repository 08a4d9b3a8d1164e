"""Arguments of the commands that set and clear faults of links. Imported by clients: imports little."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from drivers.fields import FieldError, must
from vnet.link.faults import CHANCE, FAULTS, FLAPS, MILLISECONDS, MS, Action, Flap, Rule, flap_length
from vnet.qmp.qapi import QapiRecord

__all__ = ["NAMES", "RULES_MAX", "FaultChoice", "FaultRule", "RuleChoice"]

NAMES = (*FAULTS, FLAPS)
"""Names of all faults."""
RULES_MAX = 64
"""Rules of a link that are set by hand."""
SECONDS_MAX = 10_000_000
COUNT_MAX = 1_000_000_000
_COUNT = must(lambda v: 1 <= v <= COUNT_MAX, f"between 1 and {COUNT_MAX} (requests)")
_NUMBERS = must(lambda v: all(1 <= each <= COUNT_MAX for each in v), f"numbers between 1 and {COUNT_MAX}")
_AFTER = must(lambda v: 0 <= v <= SECONDS_MAX, f"between 0 and {SECONDS_MAX} (s)")
_SECONDS = must(lambda v: 0 < v <= SECONDS_MAX, f"above 0 and at most {SECONDS_MAX} (s)")


@attrs.frozen(kw_only=True)
class FaultRule(QapiRecord):
    """A rule of faults: one of ``rate``, ``count`` and ``nth`` says which requests, and ``every`` when a link flaps."""

    fault: str = attrs.field(validator=must(NAMES.__contains__, f"one of {', '.join(NAMES)}"))
    """Name of the fault, as in topology files."""
    rate: float | None = attrs.field(default=None, validator=CHANCE)
    """Probability that a request is affected; 0: no rule."""
    count: int | None = attrs.field(default=None, validator=_COUNT)
    """Number of requests that are affected, one after the other."""
    nth: tuple[int, ...] = attrs.field(default=(), validator=_NUMBERS)
    """Numbers of the affected requests, counted from 1 since the rule began."""
    delay: float | None = attrs.field(default=None, validator=MILLISECONDS)
    """Delay of delayed interrupts in milliseconds. Default: that of the topology."""
    every: float | None = attrs.field(default=None, validator=MILLISECONDS)
    """Time from the start of a flap to the next in milliseconds."""
    length: float | None = attrs.field(default=None, validator=MILLISECONDS)
    """Length of a flap in milliseconds. Default: 50, or half of ``every`` if that is less."""
    after: float = attrs.field(default=0.0, validator=_AFTER)
    """Seconds until the rule begins."""
    seconds: float | None = attrs.field(default=None, validator=_SECONDS)
    """Seconds for which the rule is in force. Default: until it is cleared."""

    def problems(self) -> Iterator[FieldError]:
        """Yield the conflicts between members."""
        flaps = self.fault == FLAPS
        amounts = {"rate": self.rate, "count": self.count, "nth": self.nth or None}
        delayed = not flaps and FAULTS[self.fault].action is Action.DELAY
        given = {**amounts, "delay": self.delay, "every": self.every, "length": self.length}
        takes = {"every", "length"} if flaps else {*amounts, "delay"} if delayed else {*amounts}
        for name, value in given.items():
            if value is not None and name not in takes:
                yield FieldError((name,), value, f"must be absent for {self.fault}")
        if flaps and self.every is None:
            yield FieldError(("every",), None, f"must be given for {FLAPS}")
        elif flaps and self.every is not None and self.every <= self._length:
            yield FieldError(
                ("every",), self.every, f"must be above {self._length:g} (length), or the link is never up"
            )
        if not flaps and sum(value is not None for value in amounts.values()) != 1:
            yield FieldError((), None, f"one of {', '.join(amounts)} must be given")

    @property
    def _length(self) -> float:
        return flap_length(self.every) if self.length is None else self.length

    def rule(self) -> Rule | Flap | None:
        """Return the rule for the link; None for a probability of 0."""
        stop = math.inf if self.seconds is None else self.after + self.seconds
        if self.every is not None:
            every = self.every * MS
            return Flap(self.after + every, self._length * MS, every, math.inf, stop)
        if self.rate == 0:
            return None
        kind = FAULTS[self.fault]
        return Rule(
            kind.requests,
            kind.action,
            rate=0.0 if self.nth else 1.0 if self.rate is None else self.rate,
            nth=self.nth,
            start=self.after,
            stop=stop,
            limit=math.inf if self.count is None else self.count,
            delay=None if self.delay is None else self.delay * MS,
            name=self.fault,
        )


@attrs.frozen
class FaultChoice(QapiRecord):
    """Arguments that set rules of faults."""

    name: str
    """Name of the link."""
    rules: tuple[FaultRule, ...]
    """The rules. They replace the rules by hand for the same faults."""


@attrs.frozen
class RuleChoice(QapiRecord):
    """Arguments that name rules of faults."""

    name: str
    """Name of the link."""
    rules: tuple[str, ...] = ()
    """Names of the rules. Default: all rules by hand."""
