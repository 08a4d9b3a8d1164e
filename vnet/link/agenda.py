"""Later actions of a link, in the order of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import trio

from drivers.flow.pump import Signal

__all__ = ["Agenda"]


class Agenda:
    """Functions to call at their times. ``run`` calls them, and must be running."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._added = Signal()

    def plan(self, at: float, act: Callable[[], None]) -> None:
        """Call ``act`` at a time, after what was planned earlier for it."""
        heappush(self._entries, (at, next(self._serial), act))
        self._added.set()

    async def run(self) -> None:
        """Call each function at its time, until cancelled."""
        while True:
            with trio.move_on_at(self._entries[0][0] if self._entries else math.inf):
                await self._added.wait()
            while self._entries and self._entries[0][0] <= trio.current_time():
                heappop(self._entries)[2]()
