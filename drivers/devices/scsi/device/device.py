"""vhost-scsi: the device's side of a SCSI host, between the driver's rings and the logical units of a domain."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from drivers.bus.vhost import DeviceQueue, OfferedQueue, VhostBound, VhostDevice
from drivers.devices.scsi.device.control import VhostScsiControlFlow, VhostScsiEventFlow
from drivers.devices.scsi.device.plug import ScsiPlug
from drivers.devices.scsi.device.requests import VhostScsiRequestFlow
from drivers.devices.scsi.device.session import ScsiSession
from drivers.devices.scsi.layout import (
    CDB_SIZES,
    SENSE_SIZES,
    SUPPORTED,
    TABLE,
    ScsiConfig,
    ScsiConfigField,
)
from drivers.devices.scsi.sense import Asc
from drivers.flow.figures import RequestFigures
from drivers.flow.pump import pump

__all__ = ["REQUESTS", "BoundVhostScsi"]

REQUESTS = 2
"""Index of the first request queue, after the control queue and the event queue."""
SEG_MAX = 126
"""Maximum number of data segments in one direction of a request: QEMU's value for vhost-user-scsi at any ring size."""
TABLE_MAX = SEG_MAX + 2
"""Descriptors of the longest request: request header, data, response."""
CMD_PER_LUN = 128


class BoundVhostScsi(VhostBound[ScsiPlug]):
    """One vhost-scsi device with its domain."""

    def __init__(self, device: VhostDevice, plug: ScsiPlug) -> None:
        super().__init__(device, plug)
        size = plug.queue_size
        self._default = ScsiConfig(
            num_queues=plug.queues,
            seg_max=max(1, min(SEG_MAX, size - 2)),
            cmd_per_lun=min(CMD_PER_LUN, size),
            max_target=plug.max_target,
        )
        self._config = self._default
        self._session: ScsiSession | None = None

    def offer(self) -> None:
        plug = self.plug
        names = ["controlq", "eventq", *(f"requestq{i + 1}" for i in range(plug.queues))]
        queues = [
            OfferedQueue(name, plug.queue_size, TABLE_MAX if index >= REQUESTS else 0)
            for index, name in enumerate(names)
        ]
        self.device.offer(TABLE, plug.features & SUPPORTED, queues, self._config.emit())

    def reset(self) -> None:
        """Restore the default sizes of CDBs and sense data (section 5.6.4.2)."""
        self._set_config(self._default)

    def _set_config(self, config: ScsiConfig) -> None:
        self._config = config
        if self._session is not None:
            self._session.config = config
        self.device.set_config(config.emit())

    async def run(self) -> None:
        device, plug = self.device, self.plug
        session = ScsiSession(device, plug, self._config)
        flows: dict[int, VhostScsiRequestFlow] = {}  # by queue index
        control, events, *queues = device.queues
        for unit in plug.domain.units.values():
            unit.reset(Asc.POWER_ON_OR_RESET)
        self._session = session
        try:
            with plug.domain.reports_to(session):
                async with trio.open_nursery() as nursery:
                    for _ in range(plug.workers):
                        nursery.start_soon(session.workers.work)
                    nursery.start_soon(control.serve_each_ring, partial(self._serve_control, control, session, flows))
                    nursery.start_soon(events.serve_each_ring, partial(self._serve_events, events, session))
                    for queue, figures in zip(queues, plug.figures, strict=True):
                        serve = partial(self._serve_requests, queue, figures, session, flows)
                        nursery.start_soon(queue.serve_each_ring, serve)
        finally:
            self._session = None
            session.tasks.drop()

    async def _serve_control(
        self, queue: DeviceQueue, session: ScsiSession, flows: dict[int, VhostScsiRequestFlow]
    ) -> None:
        await pump(VhostScsiControlFlow(queue, session, flows), self.device.settle)

    async def _serve_events(self, queue: DeviceQueue, session: ScsiSession) -> None:
        flow = VhostScsiEventFlow(queue, session)
        with session.posts_to(flow):
            await pump(flow, self.device.settle)

    async def _serve_requests(
        self, queue: DeviceQueue, figures: RequestFigures, session: ScsiSession, flows: dict[int, VhostScsiRequestFlow]
    ) -> None:
        flows[queue.index] = flow = VhostScsiRequestFlow(queue, session, figures)
        await flow.run(self.device.settle)

    def config_written(self, offset: int, data: bytes) -> None:
        """Accept the driver's sizes of sense data and CDBs, the only writable fields (section 5.6.4)."""
        value = int.from_bytes(data, "little")
        if (offset, len(data)) == ScsiConfigField.SENSE_SIZE.value and value in SENSE_SIZES:
            self._set_config(attrs.evolve(self._config, sense_size=value))
        elif (offset, len(data)) == ScsiConfigField.CDB_SIZE.value and value in CDB_SIZES:
            self._set_config(attrs.evolve(self._config, cdb_size=value))
