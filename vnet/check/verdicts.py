"""Verdicts of a case, the levels of the sentences that cases judge by, and the exit status of a run."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import attrs

__all__ = ["Broken", "Finding", "Level", "Result", "Skipped", "Verdict", "exit_status"]


class Level(Enum):
    """Strength of the sentence that a case judges by."""

    MUST = "MUST"
    """A MUST or MUST NOT of a specification."""
    SAFETY = "SAFETY"
    """The device process lives, does not spin, writes only where it may, loses nothing, and serves the next driver."""
    SHOULD = "SHOULD"
    """A SHOULD of a specification, or good sense where it has no sentence."""
    POLICY = "POLICY"
    """A rule that this project has for its own devices."""


class Verdict(Enum):
    PASS = "PASS"  # noqa: S105  the verdict, no password
    FAIL = "FAIL"
    """A MUST or SAFETY sentence is broken."""
    WARN = "WARN"
    """A SHOULD is broken."""
    POLICY = "POLICY"
    """The device behaves differently from this project's devices, which no specification forbids."""
    SKIP = "SKIP"
    """The case needs a feature, a type of device or a permission that is not there."""
    WEDGED = "WEDGED"
    """The device process lives after the case, but no longer serves an honest request."""
    CRASHED = "CRASHED"
    """The device process ended during the case."""


OF_LEVEL = {
    Level.MUST: Verdict.FAIL,
    Level.SAFETY: Verdict.FAIL,
    Level.SHOULD: Verdict.WARN,
    Level.POLICY: Verdict.POLICY,
}
"""Verdict of a broken sentence."""
FAILURES = frozenset({Verdict.FAIL, Verdict.WEDGED, Verdict.CRASHED})


class Broken(Exception):
    """The device broke the sentence of a case; the message says what was seen."""

    def __init__(self, seen: str, level: Level | None = None) -> None:
        """``level`` replaces the level of the case."""
        super().__init__(seen)
        self.level = level


class Skipped(Exception):
    """A case does not apply; the message says why."""


@attrs.frozen
class Finding:
    """The verdict of a case, and one sentence with what was seen."""

    verdict: Verdict
    seen: str = ""
    level: Level | None = None
    """Level of the broken sentence; None for that of the case."""


@attrs.frozen
class Result:
    """The outcome of one case, with all that is needed to repeat it."""

    id: str
    title: str
    area: str
    section: str
    level: Level
    verdict: Verdict
    seen: str
    setup: tuple[str, ...] = ()
    """Messages that brought the device up, with their bytes."""
    sent: tuple[str, ...] = ()
    """Messages and ring entries of the case itself, with their bytes."""
    alone: str = ""
    """Command that runs this case alone."""
    output: str = ""
    """Last lines that the spawned device printed during the case."""
    seconds: float = 0.0
    known: bool = False
    """Whether the file of known findings lists the case."""

    def spoils(self, strict: bool = False) -> bool:
        """Return whether the result fails the run; ``strict`` counts SHOULDs, too. A known case fails it by passing."""
        if self.verdict is Verdict.SKIP:
            return False
        broken = self.verdict in FAILURES or (strict and self.verdict is Verdict.WARN)
        if self.known:
            return self.verdict is Verdict.PASS
        return broken


def exit_status(results: Iterable[Result], *, strict: bool = False) -> int:
    """Return 1 if any result fails the run, else 0."""
    return int(any(result.spoils(strict) for result in results))
