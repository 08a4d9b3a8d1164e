"""A vhost-scsi device from DRIVER_OK to reset: the state that its queues share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from drivers.bus.vhost import VhostDevice
from drivers.devices.scsi.device.plug import ScsiPlug
from drivers.devices.scsi.device.tasks import TaskSet
from drivers.devices.scsi.device.unit import Unit
from drivers.devices.scsi.layout import AsyncEvent, EventType, Lun, ResetReason, Response, ScsiConfig, ScsiFeature
from drivers.devices.scsi.sense import Asc
from drivers.storage.workers import Workers

__all__ = ["ScsiSession"]


class EventQueue(Protocol):
    """The live event queue."""

    def post(self, event: EventType, lun: Lun, reason: int, /) -> None:
        """Queue an event for the driver."""


class ScsiSession:
    """One period from DRIVER_OK to reset. Listens to the domain and reports its changes as events."""

    def __init__(self, device: VhostDevice, plug: ScsiPlug, config: ScsiConfig) -> None:
        self.plug = plug
        self.config = config
        """Current configuration: the driver may change the sizes of CDBs and sense data."""
        self.workers = Workers()
        self.tasks = TaskSet(plug.domain, self.workers)
        self._event_queue: EventQueue | None = None  # while its ring is live
        self.events_missed = False
        """Whether an event was lost and the driver was not yet informed (EVENTS_MISSED)."""
        self._device = device

    def has(self, feature: ScsiFeature) -> bool:
        """Return whether the feature was negotiated."""
        return self._device.has(feature)

    @contextmanager
    def posts_to(self, event_queue: EventQueue) -> Iterator[None]:
        """Queue events in ``event_queue`` within the context; outside of it they are lost."""
        self._event_queue = event_queue
        try:
            yield
        finally:
            self._event_queue = None

    # DomainListener

    def transport_reset(self, lun: Lun, reason: ResetReason) -> None:
        if reason is ResetReason.HARD or self.has(ScsiFeature.HOTPLUG):
            self._post(EventType.TRANSPORT_RESET, lun, reason)

    def parameters_changed(self, lun: Lun, asc: Asc) -> None:
        if self.has(ScsiFeature.CHANGE):
            self._post(EventType.PARAM_CHANGE, lun, asc >> 8 | (asc & 0xFF) << 8)

    def notify(self, lun: Lun, events: AsyncEvent) -> None:
        self._post(EventType.ASYNC_NOTIFY, lun, events)

    async def abort(self, unit: Unit, *, reset: bool) -> None:
        completion = trio.Event()
        verdict = Response.RESET if reset else Response.FAILURE
        self.tasks.cancel(self.tasks.of(unit), verdict, completion.set)
        await completion.wait()

    def _post(self, event: EventType, lun: Lun, reason: int) -> None:
        if self._event_queue is None or self.events_missed:
            self.events_missed = True
            self.plug.events.drop("no_buffer")
        else:
            self._event_queue.post(event, lun, reason)
