"""Faults of a link as data: which request, how it fails, and how often or when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum

import attrs

from drivers.fields import must

__all__ = [
    "CHANCE",
    "FAULTS",
    "FLAPS",
    "MILLISECONDS",
    "MS",
    "POSSIBLE",
    "Action",
    "FaultKind",
    "Flap",
    "LinkRequest",
    "Rule",
    "flap_length",
    "rates",
]

MS = 0.001
"""Seconds in a millisecond."""
FLAPS = "flap_every_ms"
"""Name of the fault that takes the link down again and again."""
FLAP = 50.0
"""Default length of a flap in milliseconds, unless flaps follow faster."""
CHANCE = must(lambda v: 0 <= v <= 1, "between 0 and 1 (a probability)")
"""Validator of a probability."""
MILLISECONDS = must(lambda v: 0 < v <= 3_600_000, "above 0 and at most 3600000 (ms)")
"""Validator of a time in milliseconds."""


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


def _requests(requests: LinkRequest | Iterable[LinkRequest]) -> frozenset[LinkRequest]:
    return frozenset((requests,) if isinstance(requests, LinkRequest) else requests)


@attrs.frozen
class Rule:
    """A fault of some requests, by chance or by their numbers. Times are in seconds after the rule was added."""

    requests: frozenset[LinkRequest] = attrs.field(converter=_requests)
    """Kinds of affected requests; one kind may stand alone."""
    action: Action
    rate: float = 0.0
    """Probability, 0 to 1."""
    nth: frozenset[int] = attrs.field(default=frozenset(), converter=_numbers)
    """Numbers of the affected requests, counted from 1."""
    start: float = 0.0
    stop: float = math.inf
    limit: float = math.inf
    """Maximum number of faults."""
    delay: float | None = None
    """Seconds by which requests are delayed; None: as long as the link delays them by default."""
    name: str = attrs.field(default=attrs.Factory(lambda self: self._words, takes_self=True))
    """Name of the fault, such as those of `FAULTS`. Default: in words."""

    @property
    def _words(self) -> str:
        return f"{' or '.join(sorted(request.value for request in self.requests))} {self.action.value}"

    def __attrs_post_init__(self) -> None:
        """Raises ValueError for an impossible combination."""
        for request in self.requests:
            if self.action not in POSSIBLE[request]:
                raise ValueError(f"a {request.value} can't be {self.action.value}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"{self.rate} is no probability")


@attrs.frozen
class Flap:
    """A link-down ``at`` seconds after it was added, for ``length`` seconds; ``times`` times, every ``every``."""

    at: float
    length: float
    every: float = math.inf
    times: float = 1
    stop: float = math.inf
    """Seconds after which no further flap begins."""
    name: str = FLAPS


@attrs.frozen
class FaultKind:
    """A fault with a name."""

    about: str
    """Sentence for help texts."""
    action: Action
    requests: frozenset[LinkRequest] = attrs.field(converter=_requests)


_READS = (LinkRequest.READ, LinkRequest.DMA_READ)
FAULTS: Mapping[str, FaultKind] = {
    "lost_doorbells": FaultKind("Doorbell writes (kicks of the driver) are lost.", Action.LOSE, LinkRequest.DOORBELL),
    "lost_interrupts": FaultKind("Interrupt messages are lost.", Action.LOSE, LinkRequest.INTERRUPT),
    "delayed_interrupts": FaultKind("Interrupt messages arrive late.", Action.DELAY, LinkRequest.INTERRUPT),
    "timeouts": FaultKind("Reads of registers and memory get no completion.", Action.TIME_OUT, _READS),
    "unsupported": FaultKind("Reads of registers and memory complete with Unsupported Request.", Action.REFUSE, _READS),
    "aborted": FaultKind("Reads of registers and memory complete with Completer Abort.", Action.ABORT, _READS),
    "poisoned": FaultKind("The data of reads of registers and memory arrive poisoned.", Action.POISON, _READS),
}
"""Faults of requests by name, for topologies (`vnet.spec.FaultSpec`) and commands.

None affects configuration space: enumeration would miss functions.
"""


def flap_length(every_ms: float | None) -> float:
    """Return the default length of flaps in milliseconds: 50, or half of the time between two if that is less."""
    return FLAP if every_ms is None else min(FLAP, every_ms / 2)


def rates(**chances: float) -> list[Rule]:
    """Return the rules for the ``chances`` of a topology by name."""
    return [
        Rule(FAULTS[name].requests, FAULTS[name].action, rate=chance, name=name)
        for name, chance in chances.items()
        if chance
    ]
