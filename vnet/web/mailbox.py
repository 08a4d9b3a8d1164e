"""The messages that wait for one browser. Their number is limited: a slow one loses events, which are counted."""

from __future__ import annotations

from collections import deque

import trio

__all__ = ["EVENTS_MAX", "Mailbox"]

EVENTS_MAX = 256
"""Events that wait for a browser."""


class Mailbox:
    """The messages for one browser, as pairs of a kind and the data in JSON."""

    def __init__(self) -> None:
        self._events: deque[str] = deque()
        self._latest: dict[str, str] = {}
        self._lost = 0
        self._filled = trio.Event()

    def put(self, kind: str, data: str) -> None:
        """Replace the message of this kind that waits, if there is one: only the latest counts."""
        self._latest[kind] = data
        self._filled.set()

    def put_event(self, data: str) -> None:
        """Add an event, or count it as lost if too many wait."""
        if len(self._events) < EVENTS_MAX:
            self._events.append(data)
            self._filled.set()
        else:
            self.lose(1)

    def lose(self, count: int) -> None:
        """Count events that were lost."""
        self._lost += count
        self._filled.set()

    async def take(self) -> list[tuple[str, str]]:
        """Wait for messages and return them."""
        await self._filled.wait()
        return self.take_nowait()

    def take_nowait(self) -> list[tuple[str, str]]:
        """Return the messages that wait: the latest ones, then events, then the number of events lost after them.

        A message of the kind "lost" has that number.
        """
        self._filled = trio.Event()
        taken = [*self._latest.items(), *(("event", data) for data in self._events)]
        if self._lost:
            taken.append(("lost", str(self._lost)))
        self._latest.clear()
        self._events.clear()
        self._lost = 0
        return taken
