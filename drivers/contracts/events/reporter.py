"""The interface by which code emits events.

Code is handed an `Events`, mostly within a `Reporter` with the place of its events. `Events` has an attribute per
`Topic`: the function that takes the topic's records; while nothing listens, it is None, and no record is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec

import attrs
import trio

from drivers.contracts.events.base import Event, Source
from drivers.contracts.events.state import MessagePassed

__all__ = ["NO_EVENTS", "SILENT", "SILENT_HOST", "Emit", "Events", "HostEvents", "Reporter"]

P = ParamSpec("P")
Emit = Callable[[Event], None]
"""Takes an event. Never raises and never waits."""


@attrs.define(eq=False)
class Events:
    """Functions that take the events of each topic; None while no sink wants them."""

    lifecycle: Emit | None = None
    losses: Emit | None = None
    links: Emit | None = None
    vhost_user: Emit | None = None
    control: Emit | None = None
    frames: Emit | None = None
    rings: Emit | None = None
    registers: Emit | None = None
    tlps: Emit | None = None


NO_EVENTS = Events()
"""Events of code that runs outside any system: nothing ever listens."""


@attrs.frozen(eq=False)
class Reporter:
    """Emits the events of one place."""

    events: Events
    source: Source

    def of_queue(self, name: str) -> Reporter:
        """Return the reporter of a queue of this place."""
        return Reporter(self.events, attrs.evolve(self.source, queue=name))

    def lifecycle(
        self, record: Callable[Concatenate[float, Source, P], Event], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Emit a record with these fields if a sink wants the topic."""
        if (emit := self.events.lifecycle) is not None:
            emit(record(trio.current_time(), self.source, *args, **kwargs))

    def message(self, sent: bool, request: str, size: int, fds: int) -> None:
        """Emit a `MessagePassed` if a sink wants it."""
        if (emit := self.events.vhost_user) is not None:
            emit(MessagePassed(trio.current_time(), self.source, sent, request, size, fds))


SILENT = Reporter(NO_EVENTS, Source())
"""Reporter of code that runs outside any system."""


@attrs.frozen(eq=False)
class HostEvents:
    """The events of a host, for its buses."""

    events: Events
    host: str
    """Name of the host."""
    names: Mapping[str, str]
    """Name in the topology of each device, by its location on the host."""

    def driver(self, location: str) -> Reporter:
        """Return the reporter of the driver's side of the device at ``location``."""
        return Reporter(self.events, Source(self.host, self.names.get(location, location), "driver"))

    def carrier(self, location: str) -> Reporter:
        """Return the reporter of the carrier at ``location``, such as a PCI function."""
        return Reporter(self.events, Source(self.host, self.names.get(location, location)))


SILENT_HOST = HostEvents(NO_EVENTS, "", {})
"""Events of a host outside any system."""
