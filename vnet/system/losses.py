"""Losses of a running system: counters of drops and of lost notifications, and the events for their changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import trio

from drivers.contracts.events import Event, Events, NotificationsRescued, PacketsDropped, Source
from vnet.system.device import Device
from vnet.system.ring_looks import RingLooks

__all__ = ["INTERVAL", "DropCount", "LossWatch", "drop_counts"]

NO_LOSS = frozenset({"stale", "stopped"})
"""Causes of port drops that are not lost traffic: frames from before the interface's start, or after its stop, as on
a cable without a plug."""
FILTERED = "filter_"
"""Prefix of the drop causes that count frames rejected by the receive filter."""
INTERVAL = 1.0
"""Seconds between two looks at the counters."""


@attrs.frozen
class DropCount:
    """A drop counter of a device."""

    source: Source
    place: str
    """Counter of the end, such as port or received."""
    cause: str
    count: int


def drop_counts(device: Device) -> Iterator[DropCount]:
    """Yield the drop counters of both ends.

    Causes in `NO_LOSS`, and frames rejected by the receive filter, are left out: they are not lost traffic.
    """
    for source, end in ((device.source("driver"), device.driver_end), (device.source("device"), device.device_end)):
        for place, drops in end.drops():
            for cause, count in drops.items():
                if not (place == "port" and cause in NO_LOSS) and not cause.startswith(FILTERED):
                    yield DropCount(source, place, cause, count)


def _rescues(device: Device) -> Iterator[tuple[Source, int]]:
    """Yield the number of lost notifications of each queue on each side, if there were any."""
    for queue in device.driver_queues:
        if queue.signal.rescues:
            yield device.source("driver", queue.name), queue.signal.rescues
    for own in device.device_queues:
        if own.signal.rescues:
            yield device.source("device", own.name), own.signal.rescues


class LossWatch:
    """Emits an event for each counter of losses that has increased. The counters are read while a sink listens only."""

    def __init__(self, events: Events, devices: Mapping[str, Device], looks: RingLooks) -> None:
        """``looks`` remembers a look at the rings at each interval, so that the age of their chains is known."""
        self._events = events
        self._devices = devices
        self._looks = looks
        self._counts: dict[tuple[Source, str, str], int] = {}

    async def run(self) -> None:
        """Read the counters at intervals until cancelled."""
        while True:
            await trio.sleep(INTERVAL)
            self.report()

    def report(self) -> None:
        """Emit an event for each counter that increased since the last call."""
        if (emit := self._events.losses) is not None:
            self._looks.look(self._devices.values(), trio.current_time())
            for event in self._changes():
                emit(event)

    def forget(self, device: str) -> None:
        """Forget the counters of a device that leaves the system, after a last look at them."""
        self.report()
        for key in [key for key in self._counts if key[0].device == device]:
            del self._counts[key]

    def _changes(self) -> Iterator[Event]:
        now = trio.current_time()
        for device in self._devices.values():
            for drop in drop_counts(device):
                if more := self._increase(drop.source, drop.place, drop.cause, drop.count):
                    yield PacketsDropped(now, drop.source, drop.place, drop.cause, more)
            for source, count in _rescues(device):
                if more := self._increase(source, "", "", count):
                    yield NotificationsRescued(now, source, more)

    def _increase(self, source: Source, place: str, cause: str, count: int) -> int:
        before = self._counts.get((source, place, cause), 0)
        self._counts[source, place, cause] = count
        return max(count - before, 0)
