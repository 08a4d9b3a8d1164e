"""The events that wait for one client. Their number is limited: a client that does not read loses events."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import trio

from drivers.contracts.events import Event
from vnet.qmp.events import BY_RECORD, EVENTS, LOST, SHUTDOWN, EventsLost, Shutdown, event_data
from vnet.qmp.qapi import QapiRecord, to_wire
from vnet.system.events import EventHub

__all__ = ["EVENTS_MAX", "EventQueue"]

EVENTS_MAX = 1024
"""Events that wait for a client."""


class EventQueue:
    """A sink that keeps the chosen events until the client's task takes them. It chooses none at first."""

    def __init__(self, hub: EventHub, wall: Callable[[], float] = time.time) -> None:
        self._hub = hub
        self._wall = wall
        self._listening = ExitStack()
        self._chosen: frozenset[str] = frozenset()
        self._waiting: list[tuple[str, Event]] = []
        self._lost = 0
        self._filled = trio.Event()

    def choose(self, names: Collection[str]) -> None:
        """Take the events with these names from now on, and no others."""
        self._listening.close()
        self._chosen = frozenset(names)
        records = (EVENTS[name].record for name in names)
        topics = dict.fromkeys(record.topic for record in records if record is not None)
        self._listening.enter_context(self._hub.listen(self, topics))

    def close(self) -> None:
        """Take no more events."""
        self._listening.close()

    def __call__(self, event: Event) -> None:
        for name, kind in BY_RECORD.get(type(event), {}).items():
            if name in self._chosen and kind.when(event):
                if len(self._waiting) < EVENTS_MAX:
                    self._waiting.append((name, event))
                else:
                    self._lost += 1
                self._filled.set()

    async def wait(self) -> None:
        """Wait for events."""
        await self._filled.wait()

    def take(self) -> list[dict[str, Any]]:
        """Return the message of each event that waits, and of the number lost after them."""
        self._filled = trio.Event()
        taken, self._waiting = self._waiting, []
        lost, self._lost = self._lost, 0
        messages = [self._message(name, event_data(EVENTS[name], event), event.time) for name, event in taken]
        if lost:
            messages.append(self._message(LOST, EventsLost(count=lost), trio.current_time()))
        return messages

    def farewell(self, shutdown: Shutdown) -> list[dict[str, Any]]:
        """Return the messages of the events that wait, and that of the system's end if it is chosen."""
        if SHUTDOWN not in self._chosen:
            return self.take()
        return [*self.take(), self._message(SHUTDOWN, shutdown, trio.current_time())]

    def _message(self, name: str, data: QapiRecord, at: float) -> dict[str, Any]:
        """Return an event of QMP. ``at`` is in seconds of the run's clock; the message has the time of day."""
        seconds, microseconds = divmod(round((self._wall() - trio.current_time() + at) * 1e6), 1_000_000)
        stamp = {"seconds": seconds, "microseconds": microseconds}
        return {"timestamp": stamp, "event": name, "data": to_wire(data)}
