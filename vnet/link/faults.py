"""Faults of a link as data: which request, how it fails, and how often or when."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum

import attrs

__all__ = ["Action", "Flap", "Request", "Rule", "rates"]


class Request(Enum):
    """A request, as far as faults distinguish it. ``DMA_…`` are views through windows."""

    CONFIG_READ = "config read"
    CONFIG_WRITE = "config write"
    READ = "read"
    WRITE = "write"
    DOORBELL = "doorbell"
    """A write that only says that there is something to do."""
    INTERRUPT = "interrupt"
    DMA_READ = "DMA read"
    DMA_WRITE = "DMA write"


class Action(Enum):
    """How a request fails."""

    LOSE = "lost"
    """A posted write is lost without an error."""
    DELAY = "delayed"
    """It arrives later, unless the epoch is over by then."""
    TIME_OUT = "timed out"
    """No completion comes: the request never arrived."""
    COME_LATE = "late"
    """The completion comes after the time-out: what the request did is done, its answer is dropped."""
    REFUSE = "unsupported"
    """The other end answers "unsupported request"."""
    ABORT = "aborted"
    """The other end answers "completer abort"."""
    POISON = "poisoned"
    """The data comes marked as damaged, and is not used."""
    FLAP = "flap"
    """The link goes down at this very request, and comes back."""


_READ = frozenset({Action.TIME_OUT, Action.COME_LATE, Action.REFUSE, Action.ABORT, Action.POISON, Action.FLAP})
_POSTED = frozenset({Action.LOSE, Action.REFUSE, Action.POISON, Action.FLAP})
POSSIBLE = {
    Request.CONFIG_READ: _READ,
    Request.CONFIG_WRITE: _READ - {Action.POISON},
    Request.READ: _READ,
    Request.WRITE: _POSTED,
    Request.DOORBELL: _POSTED | {Action.DELAY},
    Request.INTERRUPT: _POSTED | {Action.DELAY},
    Request.DMA_READ: _READ - {Action.COME_LATE},
    Request.DMA_WRITE: frozenset({Action.REFUSE, Action.POISON, Action.FLAP}),
}
"""The faults of each request: posted writes have no completion, and bytes written through a view arrive at once."""


def _numbers(given: Iterable[int]) -> frozenset[int]:
    return frozenset(given)


@attrs.frozen
class Rule:
    """One thing that goes wrong: to some requests by chance, or to the ones with these numbers."""

    request: Request
    action: Action
    rate: float = 0.0
    """Probability, 0 to 1."""
    nth: frozenset[int] = attrs.field(default=frozenset(), converter=_numbers)
    """Requests of this kind, counted from 1 since the rule was added."""
    start: float = 0.0
    """Seconds since the link was made, from which the rule holds."""
    stop: float = math.inf
    limit: float = math.inf
    """Times after which it holds no more."""

    def __attrs_post_init__(self) -> None:
        """Raises ValueError for an impossible combination."""
        if self.action not in POSSIBLE[self.request]:
            raise ValueError(f"a {self.request.value} can't be {self.action.value}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"{self.rate} is no probability")


@attrs.frozen
class Flap:
    """The link goes down ``at`` seconds after it was made, for ``length`` seconds; ``times`` times, every ``every``."""

    at: float
    length: float
    every: float = math.inf
    times: float = 1


def rates(**chances: float) -> list[Rule]:
    """The rules that a topology can ask for, by name: see `vnet.spec.FaultSpec`."""
    return [
        Rule(request, action, rate=chance)
        for name, chance in chances.items()
        if chance
        for request, action in BY_NAME[name]
    ]


def _each(action: Action, requests: Iterable[Request]) -> tuple[tuple[Request, Action], ...]:
    return tuple((request, action) for request in requests)


_READS = (Request.READ, Request.DMA_READ)
BY_NAME = {
    "lost_doorbells": _each(Action.LOSE, [Request.DOORBELL]),
    "lost_interrupts": _each(Action.LOSE, [Request.INTERRUPT]),
    "delayed_interrupts": _each(Action.DELAY, [Request.INTERRUPT]),
    "timeouts": _each(Action.TIME_OUT, _READS),
    "unsupported": _each(Action.REFUSE, _READS),
    "aborted": _each(Action.ABORT, _READS),
    "poisoned": _each(Action.POISON, _READS),
}
"""Chances that a topology can give. Configuration space is spared: what enumeration misses stays missing."""
