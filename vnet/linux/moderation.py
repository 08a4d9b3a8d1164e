"""How long whoever watches ports may pause between two looks: as long as hardly less is carried for it.

Without a clock or a descriptor of its own: it is told what was carried, window by window.
"""

from __future__ import annotations

__all__ = ["PAUSE", "WINDOW", "Moderation"]

WINDOW = 0.01
"""Seconds over which bytes are counted, at least."""
MUCH = 64e6
"""Bytes a second from which on there are pauses."""
PAUSE = 500e-6
"""Seconds from one look to the next, at most."""
LOOK = 192 << 10
"""Bytes that shall be found by one: half of what a guest's ring of 256 buffers of 1.5 KiB takes."""
PAUSED = 32
"""Windows with pauses, before one without shows again what is carried then."""
KEPT = 0.5
"""Of what is carried without pauses, so much has to be with them: who asks and waits for answers is left with less."""
REST = 32
"""Windows without pauses, after some that cost more."""


class Moderation:
    """The pause of each window."""

    def __init__(self) -> None:
        self.pause = 0.0
        """Seconds; 0 for none."""
        self._free = 0.0  # bytes a second in the last window without pauses
        self._paused, self._carried = 0, 0.0  # windows with pauses since then, and the sum of their rates
        self._rest = 0  # windows without pauses that are still to come

    def next(self, rate: float) -> float:
        """The pause in the next window, after one in which ``rate`` bytes a second were carried."""
        if not self.pause:
            self._free, self._paused, self._carried = rate, 0, 0.0
            self._rest = max(0, self._rest - 1)
            if rate >= MUCH and not self._rest:
                self.pause = _pause(rate)
            return self.pause
        self._paused += 1
        self._carried += rate
        costly = self._carried < KEPT * self._free * self._paused
        if costly:
            self._rest = REST
        ends = costly or rate < MUCH or self._paused == PAUSED
        self.pause = 0.0 if ends else _pause(rate)
        return self.pause


def _pause(rate: float) -> float:
    return min(LOOK / rate, PAUSE)
