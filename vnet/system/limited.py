"""Limits of lines for the user, so that no peer can flood a log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
import trio

__all__ = ["AGAIN", "LINES", "PER", "TEXT_MAX", "LimitedReport", "LineLimit", "repeated", "shortened"]

LINES, PER = 10, 5.0
"""Largest number of lines, and the seconds in which they are counted."""
AGAIN = 5.0, 60.0
"""Shortest and longest interval in seconds at which the same problem is reported; it doubles with each report."""
KEPT = 64
"""Problems remembered."""
TEXT_MAX = 1000
"""Longest text of a line in characters: peers choose how long some are."""


@attrs.define
class _Problem:
    reported: float
    """Time of the last report."""
    pause: float
    """Seconds until the next one."""
    more: int = 0
    """Repetitions since the last report."""


@attrs.define(eq=False)
class LineLimit:
    """The limit of one source of lines: `LINES` lines in `PER` seconds, and growing intervals for one problem."""

    skipped: int = 0
    """Lines held back since the last one that was admitted."""
    _times: deque[float] = attrs.field(factory=lambda: deque([float("-inf")] * LINES, maxlen=LINES))
    _problems: dict[str, _Problem] = attrs.field(factory=dict)

    @property
    def open(self) -> bool:
        """Whether a line is admitted now."""
        return trio.current_time() - self._times[0] >= PER

    def admit(self) -> bool:
        """Return whether the next line may be reported, and count it."""
        if not self.open:
            self.skipped += 1
            return False
        self._times.append(trio.current_time())
        return True

    def admit_problem(self, problem: str, count: int = 1) -> int | None:
        """Return how often a problem occurred besides this time since its last report; None if it is not due.

        ``count``: how often it occurred now.
        """
        now, (shortest, longest) = trio.current_time(), AGAIN
        known, more, pause = self._problems.get(problem), count - 1, shortest
        if known is not None:
            more += known.more
            if now - known.reported <= 2 * longest:
                if now - known.reported < known.pause or not self.open:
                    known.more += count
                    return None
                pause = min(2 * known.pause, longest)
        if not self.admit():
            return None
        self._problems.pop(problem, None)
        self._problems[problem] = _Problem(now, pause)
        if len(self._problems) > KEPT:
            del self._problems[next(iter(self._problems))]
        return max(more, 0)

    def take_due(self, *, end: bool = False) -> list[tuple[str, int]]:
        """Return problems that were repeated since their last report and whose pause is over, each with the number of
        repetitions, and count them as reported. At the ``end``: all repeated problems, without a limit."""
        now, (_, longest) = trio.current_time(), AGAIN
        due: list[tuple[str, int]] = []
        for problem, known in self._problems.items():
            if not known.more or not (end or (self.open and now - known.reported >= known.pause)):
                continue
            self._times.append(now)
            due.append((problem, known.more))
            known.reported, known.pause, known.more = now, min(2 * known.pause, longest), 0
        return due

    def take_skipped(self) -> int:
        """Return the number of lines held back, and forget it."""
        skipped, self.skipped = self.skipped, 0
        return skipped


def shortened(text: str) -> str:
    """Return ``text``, cut to `TEXT_MAX` characters."""
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 3]}..."


def repeated(text: str, more: int) -> str:
    """Return ``text`` with the number of repetitions since its last report."""
    return f"{text} ({more} more time{'s' * (more > 1)})" if more else text


@attrs.define(eq=False)
class LimitedReport:
    """A reporter of lines that begin with a name."""

    name: str
    report: Callable[[str], None]
    """Takes the lines."""
    _limit: LineLimit = attrs.field(factory=LineLimit)

    def say(self, text: str) -> None:
        """Report ``text`` unless the limit is reached."""
        if self._limit.admit():
            self._write(shortened(text))

    def trouble(self, text: str) -> None:
        """Report a problem, and the same text again only after an interval of `AGAIN`."""
        text = shortened(text)
        more = self._limit.admit_problem(text)
        if more is not None:
            self._write(repeated(text, more))

    def _write(self, text: str) -> None:
        if skipped := self._limit.take_skipped():
            self.report(f"{self.name}: {skipped} more")
        self.report(f"{self.name}: {text}")
