"""Training of the link: the states of one port, and the ordered sets that move them (PCI Express 4.2.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum

__all__ = ["COMMA", "INTERVAL", "TIMEOUT", "TRANSITIONS", "OrderedSet", "Training", "TrainingEvent", "TrainingState"]


class TrainingState(Enum):
    """State of a port (LTSSM), without those of power management, loopback and compliance."""

    DETECT = "detect"
    POLLING = "polling"
    CONFIGURATION = "configuration"
    L0 = "L0"
    RECOVERY_LOCK = "recovery, receiver lock"
    RECOVERY_CONFIGURATION = "recovery, receiver configuration"
    HOT_RESET = "hot reset"


class TrainingEvent(Enum):
    """Reason of a change of state."""

    PARTNER = "a receiver is detected"
    TS1 = "TS1"
    TS2 = "TS2"
    IDLE = "idle"
    RESET = "TS1 with the hot reset bit"
    RETRAIN = "a retrain is requested"
    BUS_RESET = "a hot reset is requested"
    TIMEOUT = "time-out"


S, E = TrainingState, TrainingEvent
TRANSITIONS: Mapping[tuple[TrainingState, TrainingEvent], TrainingState] = {
    (S.DETECT, E.PARTNER): S.POLLING,
    (S.POLLING, E.TS1): S.CONFIGURATION,
    (S.POLLING, E.TS2): S.CONFIGURATION,
    (S.POLLING, E.TIMEOUT): S.DETECT,
    (S.CONFIGURATION, E.TS2): S.L0,
    (S.CONFIGURATION, E.IDLE): S.L0,
    (S.CONFIGURATION, E.TIMEOUT): S.DETECT,
    (S.L0, E.RETRAIN): S.RECOVERY_LOCK,
    (S.L0, E.TS1): S.RECOVERY_LOCK,
    (S.L0, E.BUS_RESET): S.HOT_RESET,
    (S.L0, E.RESET): S.HOT_RESET,
    (S.RECOVERY_LOCK, E.TS1): S.RECOVERY_CONFIGURATION,
    (S.RECOVERY_LOCK, E.TS2): S.RECOVERY_CONFIGURATION,
    (S.RECOVERY_LOCK, E.RESET): S.HOT_RESET,
    (S.RECOVERY_LOCK, E.TIMEOUT): S.DETECT,
    (S.RECOVERY_CONFIGURATION, E.TS2): S.L0,
    (S.RECOVERY_CONFIGURATION, E.IDLE): S.L0,
    (S.RECOVERY_CONFIGURATION, E.RESET): S.HOT_RESET,
    (S.RECOVERY_CONFIGURATION, E.TIMEOUT): S.DETECT,
    (S.HOT_RESET, E.TIMEOUT): S.DETECT,
}
"""Next states; an event that is missing changes nothing."""

COMMA = 0xBC
"""First symbol of an ordered set (COM, K28.5)."""
_IDENTIFIERS, _SIZE = 10, 16
_RESET_BIT = 0x01


class OrderedSet(Enum):
    """The ordered sets that ports send, as bytes."""

    TS1 = bytes((COMMA, 0, 0, 0xFF, 0x02, 0)) + b"\x4a" * _IDENTIFIERS
    TS1_RESET = bytes((COMMA, 0, 0, 0xFF, 0x02, _RESET_BIT)) + b"\x4a" * _IDENTIFIERS
    TS2 = bytes((COMMA, 0, 0, 0xFF, 0x02, 0)) + b"\x45" * _IDENTIFIERS
    IDLE = bytes((COMMA,)) + bytes(_SIZE - 1)


_EVENTS = {
    OrderedSet.TS1.value: E.TS1,
    OrderedSet.TS1_RESET.value: E.RESET,
    OrderedSet.TS2.value: E.TS2,
    OrderedSet.IDLE.value: E.IDLE,
}
SENT: Mapping[TrainingState, OrderedSet] = {
    S.POLLING: OrderedSet.TS1,
    S.CONFIGURATION: OrderedSet.TS2,
    S.RECOVERY_LOCK: OrderedSet.TS1,
    S.RECOVERY_CONFIGURATION: OrderedSet.TS2,
    S.HOT_RESET: OrderedSet.TS1_RESET,
}
"""Ordered sets that a state sends, at its beginning and every `INTERVAL`."""
INTERVAL = 1e5
"""Nanoseconds between two ordered sets of a state."""
MS = 1e6
"""Nanoseconds in a millisecond."""
TIMEOUT: Mapping[TrainingState, float] = {
    S.POLLING: 24 * MS,
    S.CONFIGURATION: 24 * MS,
    S.RECOVERY_LOCK: 24 * MS,
    S.RECOVERY_CONFIGURATION: 48 * MS,
    S.HOT_RESET: 2 * MS,
}
"""Nanoseconds after which a state is given up."""


class Training:
    """One port. Times in nanoseconds, which the caller hands in."""

    def __init__(self) -> None:
        self.state = S.DETECT
        self.retrains = 0
        """Recoveries that began."""
        self._sets: list[bytes] = []
        self._repeat: float = math.inf
        self._end: float = math.inf

    @property
    def up(self) -> bool:
        """Whether packets may be sent."""
        return self.state is S.L0

    def happen(self, event: TrainingEvent, now: float) -> None:
        """Change the state, if ``event`` changes it."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            if self.up and event is E.TS2:  # the partner has missed our last ordered set
                self._sets.append(OrderedSet.IDLE.value)
            return
        self.state = state
        self.retrains += state is S.RECOVERY_LOCK
        self._end = now + TIMEOUT.get(state, math.inf)
        sent = OrderedSet.IDLE if state is S.L0 else SENT.get(state)
        self._sets = [] if sent is None else [sent.value]
        self._repeat = now + INTERVAL if state in SENT else math.inf

    def lose(self) -> None:
        """Return to the first state: the partner is gone."""
        self.state = S.DETECT
        self._sets.clear()
        self._repeat = self._end = math.inf

    def receive(self, symbols: bytes, now: float) -> bool:
        """Take an ordered set; return False if these symbols are none."""
        event = _EVENTS.get(symbols)
        if event is not None:
            self.happen(event, now)
        return event is not None

    def take(self) -> bytes | None:
        """Return the next ordered set to send; None if there is none."""
        return self._sets.pop(0) if self._sets else None

    @property
    def deadline(self) -> float:
        """Time at which `expire` is due."""
        return min(self._repeat, self._end)

    def expire(self, now: float) -> None:
        """Repeat the ordered set, or give the state up."""
        if now >= self._end:
            self.happen(E.TIMEOUT, now)
        elif now >= self._repeat:
            self._repeat = now + INTERVAL
            self._sets.append(SENT[self.state].value)
