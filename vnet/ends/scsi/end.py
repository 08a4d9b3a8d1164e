"""The ends of a SCSI host: logical units on stores at the device's end, an initiator at the driver's end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import attrs

from drivers.contracts.liveness import Liveness
from drivers.devices.scsi import Initiator, LogicalUnit, Lun, ScsiPlug, ScsiSettings
from drivers.flow.figures import RequestFigures, Traffic
from vnet.ends.base import CountedEnd, Figures, OpenContext, request_counts, request_figures, traffic_figures
from vnet.ends.scsi.luns import LunStores
from vnet.ends.scsi.spec import ScsiSpec
from vnet.linux.background import open_background, open_shelter
from vnet.spec import MIB
from vnet.views.ends import EndView
from vnet.views.scsi import InitiatorView, TargetsView, UnitView

__all__ = ["InitiatorEnd", "TargetsEnd", "open_scsi", "open_scsi_device", "open_scsi_driver"]


def _counts(control: RequestFigures, events: Traffic, requests: Iterable[RequestFigures]) -> list[tuple[str, Figures]]:
    """Return the names and the figures of the queues, by queue index (VIRTIO 1.4 section 5.6.2)."""
    return [("controlq", request_figures(control)), ("eventq", traffic_figures(events)), *request_counts(requests)]


@attrs.frozen(eq=False)
class InitiatorEnd(CountedEnd):
    """The driver's end: an initiator."""

    settings: ScsiSettings

    @property
    def initiator(self) -> Initiator:
        return self.settings.initiator

    @property
    def requests(self) -> Initiator:
        return self.initiator

    @property
    def liveness(self) -> Liveness:
        return self.initiator.liveness

    def counts(self) -> list[tuple[str, Figures]]:
        own = self.initiator
        return _counts(own.control_figures, own.event_figures, own.figures)

    def snapshot(self) -> EndView:
        return InitiatorView(
            "api",
            self.live,
            config=self.initiator.config,
            resubmitted=sum(figures.queued for figures in self.initiator.figures),
            resets=self.initiator.resets,
        )


@attrs.frozen(eq=False)
class TargetsEnd(CountedEnd):
    """The device's end: logical units."""

    settings: ScsiPlug
    stores: LunStores

    @property
    def units(self) -> LunStores:
        return self.stores

    def counts(self) -> list[tuple[str, Figures]]:
        own = self.settings
        return _counts(own.control, own.events, own.figures)

    def snapshot(self) -> EndView:
        own = self.settings
        return TargetsView(
            "targets",
            self.live,
            in_worker=sum(figures.queued for figures in own.figures),
            checks=dict(own.checks),
            luns=tuple(_unit(lun, unit) for lun, unit in own.domain.units.items()),
        )


def _unit(lun: Lun, unit: LogicalUnit) -> UnitView:
    attentions = " ".join(asc.name.lower() for asc in unit.attentions)
    return UnitView(str(lun), unit.identity.serial, unit.store.info, unit.mode.write_cache, attentions or None)


@asynccontextmanager
async def open_scsi(context: OpenContext[ScsiSpec]) -> AsyncIterator[tuple[InitiatorEnd, TargetsEnd]]:
    """Open both ends of a SCSI host. Raises ConfigError."""
    async with open_scsi_device(context) as targets, open_scsi_driver(context) as initiator:
        yield initiator, targets


@asynccontextmanager
async def open_scsi_driver(context: OpenContext[ScsiSpec]) -> AsyncIterator[InitiatorEnd]:
    """Open only the driver's end."""
    spec = context.spec
    initiator = Initiator(buffers=spec.driver.buffers * MIB, queues=spec.queues)
    async with open_background() as nursery:
        await nursery.start(initiator.serve)
        yield InitiatorEnd(ScsiSettings(initiator, context.features))


@asynccontextmanager
async def open_scsi_device(context: OpenContext[ScsiSpec]) -> AsyncIterator[TargetsEnd]:
    """Open only the device's end. Raises ConfigError."""
    spec, own = context.spec, context.spec.device
    async with open_shelter() as shelter:
        stores = LunStores(context.name, own.workers, shelter)
        domain = await stores.open_all(own.luns)
        plug = ScsiPlug(domain, context.features, spec.queue_size, spec.queues, own.workers, own.max_target)
        yield TargetsEnd(plug, stores)
