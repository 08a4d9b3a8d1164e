"""Rate-limited lines for the user about peers, so that no peer can flood a log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
import trio

__all__ = ["LimitedReport"]

LINES, PER = 10, 5.0
"""Largest number of lines, and the seconds in which they are counted."""
AGAIN = 60.0
"""Seconds until the same problem is reported again, with the number of its repetitions."""
KEPT = 64
"""Problems remembered."""


@attrs.define(eq=False)
class LimitedReport:
    """A reporter of lines that begin with a name."""

    name: str
    report: Callable[[str], None]
    """Takes the lines."""
    _times: deque[float] = attrs.field(factory=lambda: deque([float("-inf")] * LINES, maxlen=LINES))
    _troubles: dict[str, tuple[float, int]] = attrs.field(factory=dict)
    """Time of the last report and number of repetitions since, by text."""

    def say(self, text: str) -> bool:
        """Report ``text`` unless the limit is reached; return whether it was reported."""
        now = trio.current_time()
        if now - self._times[0] < PER:
            return False
        self._times.append(now)
        self.report(f"{self.name}: {text}")
        return True

    def trouble(self, text: str) -> None:
        """Report a problem, and the same text again only after `AGAIN` seconds."""
        now = trio.current_time()
        last, more = self._troubles.get(text, (float("-inf"), 0))
        if now - last >= AGAIN and self.say(f"{text} ({more} more time{'s' * (more > 1)})" if more else text):
            self._troubles[text] = now, 0
        else:
            self._troubles[text] = last, more + 1
        if len(self._troubles) > KEPT:
            del self._troubles[next(iter(self._troubles))]
