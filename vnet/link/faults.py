"""Faults of a link as data: which request, how it fails, and how often or when."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum

import attrs

__all__ = ["Action", "Flap", "LinkRequest", "Rule", "rates"]


class LinkRequest(Enum):
    """A request, as far as faults distinguish it. ``DMA_…`` are views through windows."""

    CONFIG_READ = "config read"
    CONFIG_WRITE = "config write"
    READ = "read"
    WRITE = "write"
    DOORBELL = "doorbell"
    """A write to a doorbell register."""
    INTERRUPT = "interrupt"
    DMA_READ = "DMA read"
    DMA_WRITE = "DMA write"


class Action(Enum):
    """How a request fails."""

    LOSE = "lost"
    """A posted write is lost without an error."""
    DELAY = "delayed"
    """The request arrives later, or never if the epoch ends before."""
    TIME_OUT = "timed out"
    """The request is lost, so that no completion arrives."""
    COME_LATE = "late"
    """The request takes effect, but its completion arrives after the time-out and is dropped."""
    REFUSE = "unsupported"
    """The other end answers "unsupported request"."""
    ABORT = "aborted"
    """The other end answers "completer abort"."""
    POISON = "poisoned"
    """The data arrive marked as damaged, and are not used."""
    FLAP = "flap"
    """The link goes down during the request, and comes back up."""


_READ = frozenset({Action.TIME_OUT, Action.COME_LATE, Action.REFUSE, Action.ABORT, Action.POISON, Action.FLAP})
_POSTED = frozenset({Action.LOSE, Action.REFUSE, Action.POISON, Action.FLAP})
POSSIBLE = {
    LinkRequest.CONFIG_READ: _READ,
    LinkRequest.CONFIG_WRITE: _READ - {Action.POISON},
    LinkRequest.READ: _READ,
    LinkRequest.WRITE: _POSTED,
    LinkRequest.DOORBELL: _POSTED | {Action.DELAY},
    LinkRequest.INTERRUPT: _POSTED | {Action.DELAY},
    LinkRequest.DMA_READ: _READ - {Action.COME_LATE},
    LinkRequest.DMA_WRITE: frozenset({Action.REFUSE, Action.POISON, Action.FLAP}),
}
"""The faults of each request: posted writes have no completion, and bytes written through a view arrive at once."""


def _numbers(numbers: Iterable[int]) -> frozenset[int]:
    return frozenset(numbers)


@attrs.frozen
class Rule:
    """A fault of some requests, by chance or by their numbers."""

    request: LinkRequest
    action: Action
    rate: float = 0.0
    """Probability, 0 to 1."""
    nth: frozenset[int] = attrs.field(default=frozenset(), converter=_numbers)
    """Numbers of the affected requests, counted from 1 since the rule was added."""
    start: float = 0.0
    """Start of the rule in seconds, after the link was made."""
    stop: float = math.inf
    limit: float = math.inf
    """Maximum number of faults."""

    def __attrs_post_init__(self) -> None:
        """Raises ValueError for an impossible combination."""
        if self.action not in POSSIBLE[self.request]:
            raise ValueError(f"a {self.request.value} can't be {self.action.value}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"{self.rate} is no probability")


@attrs.frozen
class Flap:
    """A link-down ``at`` seconds after the link was made, for ``length`` seconds; ``times`` times, every ``every``."""

    at: float
    length: float
    every: float = math.inf
    times: float = 1


def rates(**chances: float) -> list[Rule]:
    """Return the rules for the ``chances`` of a topology by name: see `vnet.spec.FaultSpec`."""
    return [
        Rule(request, action, rate=chance)
        for name, chance in chances.items()
        if chance
        for request, action in BY_NAME[name]
    ]


def _each(action: Action, requests: Iterable[LinkRequest]) -> tuple[tuple[LinkRequest, Action], ...]:
    return tuple((request, action) for request in requests)


_READS = (LinkRequest.READ, LinkRequest.DMA_READ)
BY_NAME = {
    "lost_doorbells": _each(Action.LOSE, [LinkRequest.DOORBELL]),
    "lost_interrupts": _each(Action.LOSE, [LinkRequest.INTERRUPT]),
    "delayed_interrupts": _each(Action.DELAY, [LinkRequest.INTERRUPT]),
    "timeouts": _each(Action.TIME_OUT, _READS),
    "unsupported": _each(Action.REFUSE, _READS),
    "aborted": _each(Action.ABORT, _READS),
    "poisoned": _each(Action.POISON, _READS),
}
"""Faults that a topology can set, by name. None affects configuration space: enumeration would miss functions."""
