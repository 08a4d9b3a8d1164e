"""The time that accesses to the process at the other end of a connection may block this one."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

__all__ = ["EACH", "MOST", "Patience"]

EACH = 2.0
"""Most seconds that one access may block."""
MOST = 5.0
"""Most seconds that accesses may block in a short time."""
SHARE = 0.1
"""Most part of a long time that accesses may block."""


class Patience:
    """Blocked time as a bucket of `MOST` seconds that refills by `SHARE` seconds each second.

    A client's access to a register, and a server's access to memory that is not shared, block their process, as a
    processor's load does. So a peer that answers late, or never, slows down the other devices of the process, and by no
    more than this.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, *, free: float = 0.0) -> None:
        """``free``: seconds of each wait that do not count, for accesses that are the rule and not the exception."""
        self._clock = clock
        self._free = free
        self._left, self._at = MOST, clock()
        self.blocked = 0.0
        """Seconds blocked so far."""

    @property
    def left(self) -> float:
        """Seconds that accesses may block now."""
        now = self._clock()
        self._left, self._at = min(MOST, self._left + SHARE * (now - self._at)), now
        return self._left

    @property
    def recovered(self) -> bool:
        """Whether a new connection is worth its time."""
        return self.left >= MOST / 2

    def wait(self, ready: Callable[[float], bool], spent: float = 0.0) -> float | None:
        """Block until ``ready(timeout)`` is true. Returns the seconds that it took; None if they were too many.

        ``spent``: seconds for which the access has blocked before.
        """
        start = self._clock()
        done = ready(max(min(EACH - spent, self.left), 0.0))
        took = self._clock() - start
        self._left -= max(took - self._free, 0.0)
        self.blocked += took
        return took if done else None
