"""Lines for the user about what peers do, limited so that no peer can flood a log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
import trio

__all__ = ["LimitedReport"]

LINES, PER = 10, 5.0
"""Lines in so many seconds, whatever peers do."""
AGAIN = 60.0
"""Seconds until the same trouble is reported again, with the number of times it came up meanwhile."""
KEPT = 64
"""Troubles that are remembered."""


@attrs.define(eq=False)
class LimitedReport:
    """Passes on lines with a name before them."""

    name: str
    report: Callable[[str], None]
    _times: deque[float] = attrs.field(factory=lambda: deque([float("-inf")] * LINES, maxlen=LINES))
    _troubles: dict[str, tuple[float, int]] = attrs.field(factory=dict)
    """By text: when it was last reported, and how often it came up since then."""

    def say(self, text: str) -> bool:
        """Report ``text``; returns whether the limit of lines left room for it."""
        now = trio.current_time()
        if now - self._times[0] < PER:
            return False
        self._times.append(now)
        self.report(f"{self.name}: {text}")
        return True

    def trouble(self, text: str) -> None:
        """Report what goes wrong, and the same again only after `AGAIN` seconds."""
        now = trio.current_time()
        last, more = self._troubles.get(text, (float("-inf"), 0))
        if now - last >= AGAIN and self.say(f"{text} ({more} more time{'s' * (more > 1)})" if more else text):
            self._troubles[text] = now, 0
        else:
            self._troubles[text] = last, more + 1
        if len(self._troubles) > KEPT:
            del self._troubles[next(iter(self._troubles))]
