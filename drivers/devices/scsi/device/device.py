"""vhost-scsi: the device's side of a SCSI host, between the driver's rings and the logical units of a domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from drivers.bus.model import MatchId, require
from drivers.bus.vhost import DeviceQueue, VhostDevice
from drivers.devices.scsi.device.control import ControlFlow, EventFlow
from drivers.devices.scsi.device.domain import ScsiDomain
from drivers.devices.scsi.device.requests import RequestFlow
from drivers.devices.scsi.device.tasks import TaskSet
from drivers.devices.scsi.device.unit import Unit
from drivers.devices.scsi.layout import (
    CDB_SIZES,
    SENSE_SIZES,
    SUPPORTED,
    TABLE,
    AsyncEvent,
    ConfigField,
    EventType,
    Lun,
    ResetReason,
    Response,
    ScsiConfig,
    ScsiFeature,
)
from drivers.devices.scsi.sense import Asc, Sense
from drivers.flow.figures import RequestFigures, Traffic
from drivers.flow.pump import pump
from drivers.storage.workers import Workers
from rings.ids import DeviceId

__all__ = ["REQUESTS", "ScsiPlug", "VhostScsi"]

REQUESTS = 2
"""The index of the first request queue: before it are those for control and events."""
SEG_MAX = 126
"""Segments of data in one direction of one request: what QEMU shows for a vhost-user SCSI host of any ring size."""
TABLE_MAX = SEG_MAX + 2
"""Descriptors of the longest request: request header, data, response."""
CMD_PER_LUN = 128


@attrs.define(eq=False)
class ScsiPlug:
    """What one vhost-scsi device is: its logical units, and what it offers."""

    domain: ScsiDomain
    features: int = SUPPORTED
    queue_size: int = 256
    queues: int = 1
    """Request queues."""
    workers: int = 4
    """Commands that may block at the same time."""
    max_target: int = 255
    figures: list[RequestFigures] = attrs.field(init=False)
    """By request queue. A CHECK CONDITION is an answer like any other, unless its cause is the store's."""
    control: RequestFigures = attrs.field(init=False, factory=RequestFigures)
    events: Traffic = attrs.field(init=False, factory=Traffic)
    checks: dict[str, int] = attrs.field(init=False, factory=dict)
    """CHECK CONDITIONs by what their sense says."""

    @figures.default
    def _figures(self) -> list[RequestFigures]:
        return [RequestFigures() for _ in range(self.queues)]

    def check(self, sense: Sense) -> None:
        """Count one."""
        name = str(sense)
        self.checks[name] = self.checks.get(name, 0) + 1


class BoundVhostScsi:
    """One vhost-scsi device with its domain."""

    def __init__(self, device: VhostDevice, plug: ScsiPlug) -> None:
        self._device = device
        self.plug = plug
        size = plug.queue_size
        self._default = ScsiConfig(
            num_queues=plug.queues,
            seg_max=max(1, min(SEG_MAX, size - 2)),
            cmd_per_lun=min(CMD_PER_LUN, size),
            max_target=plug.max_target,
        )
        self.config = self._default
        self.workers = Workers()
        self.tasks = TaskSet(plug.domain, self.workers)
        self.flows: dict[int, RequestFlow] = {}
        """Those of the request queues that have a ring, by index."""
        self.missed = False
        """Whether an event was lost that the driver does not know of."""
        self._events: EventFlow | None = None

    def has(self, feature: ScsiFeature) -> bool:
        """Whether it was agreed on."""
        return bool(self._device.features >> feature & 1)

    def offer(self) -> None:
        plug = self.plug
        names = ["controlq", "eventq", *(f"requestq{i + 1}" for i in range(plug.queues))]
        queues = [(name, plug.queue_size) for name in names]
        self._device.offer(TABLE, plug.features & SUPPORTED, queues, self.config.emit())
        for queue in self._device.queues[REQUESTS:]:
            queue.table_max = TABLE_MAX
        self._device.on_reset = self._reset

    def _reset(self) -> None:
        """The sizes are those that every driver finds (section 5.6.4.2)."""
        self._set_config(self._default)

    def _set_config(self, config: ScsiConfig) -> None:
        self.config = config
        self._device.set_config(config.emit())

    async def run(self) -> None:
        device, plug = self._device, self.plug
        self.workers = Workers()
        self.tasks = TaskSet(plug.domain, self.workers)
        control, events, *queues = device.queues
        self.flows.clear()
        self.missed = False
        for unit in plug.domain.units.values():
            unit.reset(Asc.POWER_ON_OR_RESET)
        plug.domain.listener = self
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(plug.workers):
                    nursery.start_soon(self.workers.work)
                nursery.start_soon(control.serve_each_ring, partial(self._serve_control, control))
                nursery.start_soon(events.serve_each_ring, partial(self._serve_events, events))
                for queue, figures in zip(queues, plug.figures, strict=True):
                    nursery.start_soon(queue.serve_each_ring, partial(self._serve_requests, queue, figures))
        finally:
            plug.domain.listener = None
            self.tasks.drop()

    async def _serve_control(self, queue: DeviceQueue) -> None:
        await pump(ControlFlow(queue, self), self._device.settle)

    async def _serve_events(self, queue: DeviceQueue) -> None:
        self._events = EventFlow(queue, self, self.plug.events)
        try:
            await pump(self._events, self._device.settle)
        finally:
            self._events = None

    async def _serve_requests(self, queue: DeviceQueue, figures: RequestFigures) -> None:
        self.flows[queue.index] = flow = RequestFlow(queue, self, figures)
        await flow.run(self._device.settle)

    def config_written(self, offset: int, data: bytes) -> None:
        """Only the sizes of sense data and of CDBs are a driver's to choose (section 5.6.4)."""
        value = int.from_bytes(data, "little")
        if (offset, len(data)) == ConfigField.SENSE_SIZE.value and value in SENSE_SIZES:
            self._set_config(attrs.evolve(self.config, sense_size=value))
        elif (offset, len(data)) == ConfigField.CDB_SIZE.value and value in CDB_SIZES:
            self._set_config(attrs.evolve(self.config, cdb_size=value))

    async def close(self) -> None:
        self._device.on_reset = lambda: None

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
        over = trio.Event()
        verdict = Response.RESET if reset else Response.FAILURE
        self.tasks.cancel(self.tasks.of(unit), verdict, over.set)
        await over.wait()

    def _post(self, event: EventType, lun: Lun, reason: int) -> None:
        if self._events is None or self.missed:
            self.missed = True
            self.plug.events.drop("no_buffer")
        else:
            self._events.post(event, lun, reason)


class VhostScsi:
    """The device type; ``plug_for`` says what a device of it is, None while that is not there yet."""

    name = "vhost_scsi"
    id_table: Sequence[MatchId] = (MatchId(DeviceId.SCSI),)
    table = TABLE

    def __init__(self, plug_for: Callable[[VhostDevice], ScsiPlug | None]) -> None:
        self._plug_for = plug_for

    async def probe(self, device: VhostDevice) -> BoundVhostScsi:
        plug = require(self._plug_for(device), device, "no logical units yet")
        bound = BoundVhostScsi(device, plug)
        bound.offer()
        return bound
