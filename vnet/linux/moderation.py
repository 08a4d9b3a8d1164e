"""Decides how long the poller may sleep between polls without losing throughput.

It has no clock and no descriptor: the poller reports the throughput of each window.
"""

from __future__ import annotations

__all__ = ["MAX_PAUSE", "WINDOW", "Moderation"]

WINDOW = 0.01
"""Minimum length of a measurement window, in seconds."""
MIN_RATE = 64e6
"""Throughput in bytes a second above which the poller pauses."""
MAX_PAUSE = 500e-6
"""Maximum pause between two polls, in seconds."""
BYTES_PER_POLL = 192 << 10
"""Bytes that one poll should find: half the room of a guest's ring of 256 buffers of 1.5 KiB."""
PAUSED_WINDOWS = 32
"""Windows with pauses before an unpaused one measures the throughput again."""
MIN_THROUGHPUT_RATIO = 0.5
"""Pausing continues only above this fraction of the unpaused throughput. Request/response traffic falls below it."""
REST_WINDOWS = 32
"""Windows without pauses after pauses that cost throughput."""


class Moderation:
    """Chooses the pause of each window."""

    def __init__(self) -> None:
        self.pause = 0.0
        """Pause in seconds; 0 for none."""
        self._unpaused_rate = 0.0  # bytes a second in the last window without pauses
        self._paused, self._rate_sum = 0, 0.0  # windows with pauses since then, and the sum of their rates
        self._rest = 0  # windows without pauses still to come

    def next(self, rate: float) -> float:
        """Return the pause for the next window, after one with a throughput of ``rate`` bytes a second."""
        if not self.pause:
            self._unpaused_rate, self._paused, self._rate_sum = rate, 0, 0.0
            self._rest = max(0, self._rest - 1)
            if rate >= MIN_RATE and not self._rest:
                self.pause = _pause(rate)
            return self.pause
        self._paused += 1
        self._rate_sum += rate
        costly = self._rate_sum < MIN_THROUGHPUT_RATIO * self._unpaused_rate * self._paused
        if costly:
            self._rest = REST_WINDOWS
        ends = costly or rate < MIN_RATE or self._paused == PAUSED_WINDOWS
        self.pause = 0.0 if ends else _pause(rate)
        return self.pause


def _pause(rate: float) -> float:
    return min(BYTES_PER_POLL / rate, MAX_PAUSE)
