"""The ends of a block device: a store at the device's end, the API and an optional NBD export at the driver's end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from drivers.contracts.liveness import Liveness
from drivers.contracts.ports import Lifetime
from drivers.devices.blk import BlkPlug, BlkSettings, Disk
from vnet.ends.base import CountedEnd, Figures, OpenContext, request_counts
from vnet.ends.blk.spec import BlkSpec, DiskSpec, DiskStoreSpec, nbd_uri
from vnet.errors import ConfigError
from vnet.linux.background import open_background
from vnet.ports.disk.nbd_server import NbdServer
from vnet.spec import MIB
from vnet.views.blk import DiskView, StoreView
from vnet.views.ends import EndView

__all__ = ["DiskEnd", "StoreEnd", "open_blk", "open_blk_device", "open_blk_driver"]


@attrs.frozen(eq=False)
class DiskEnd(CountedEnd):
    """The driver's end: a disk, and an NBD server if the topology asks for one."""

    spec: DiskSpec
    name: str
    settings: BlkSettings
    server: NbdServer | None

    @property
    def disk(self) -> Disk:
        return self.settings.disk

    @property
    def requests(self) -> Disk:
        return self.disk

    @property
    def liveness(self) -> Liveness:
        return self.disk.liveness

    def counts(self) -> list[tuple[str, Figures]]:
        return request_counts(self.disk.figures)

    def snapshot(self) -> EndView:
        return DiskView(
            "api" if self.spec.nbd is None else "nbd",
            self.live,
            uri=None if self.spec.nbd is None else nbd_uri(self.spec.nbd, self.name),
            disk=self.disk.geometry,
            nbd=None if self.server is None else attrs.evolve(self.server.statistics),
            resubmitted=sum(figures.queued for figures in self.disk.figures),
        )


@attrs.frozen(eq=False)
class StoreEnd(CountedEnd):
    """The device's end: a store."""

    spec: DiskStoreSpec
    settings: BlkPlug

    def counts(self) -> list[tuple[str, Figures]]:
        return request_counts(self.settings.figures)

    def snapshot(self) -> EndView:
        return StoreView(
            self.spec.store,
            self.live,
            path=self.spec.path,
            store=self.settings.store.info,
            serial=self.settings.serial,
            in_worker=sum(figures.queued for figures in self.settings.figures),
        )


@asynccontextmanager
async def open_blk(context: OpenContext[BlkSpec]) -> AsyncIterator[tuple[DiskEnd, StoreEnd]]:
    """Open both ends of a block device. Raises ConfigError."""
    async with open_blk_device(context) as store, open_blk_driver(context) as disk:
        yield disk, store


@asynccontextmanager
async def open_blk_driver(context: OpenContext[BlkSpec]) -> AsyncIterator[DiskEnd]:
    """Open only the driver's end. Raises ConfigError."""
    spec = context.spec
    disk = Disk(buffers=spec.driver.buffers * MIB, queues=spec.queues)
    server = None if spec.driver.nbd is None else NbdServer(disk, context.name)
    async with open_background() as nursery:
        await nursery.start(disk.serve)
        if server is not None and spec.driver.nbd is not None:
            try:
                await nursery.start(server.serve, Path(spec.driver.nbd))
            except OSError as exc:
                why = exc.strerror or str(exc)
                raise ConfigError("topology", f"devices.{context.name}.driver.nbd", spec.driver.nbd, why) from None
        yield DiskEnd(spec.driver, context.name, BlkSettings(disk, context.features), server)


@asynccontextmanager
async def open_blk_device(context: OpenContext[BlkSpec]) -> AsyncIterator[StoreEnd]:
    """Open only the device's end. Raises ConfigError."""
    spec, own = context.spec, context.spec.device
    async with own.open_at(f"devices.{context.name}.device", own.workers) as store:
        serial = context.name[:20] if own.serial is None else own.serial
        plug = BlkPlug(
            store,
            serial,
            context.features,
            spec.queue_size,
            spec.queues,
            own.workers,
            erases=own.secure_erase,
            lifetime=Lifetime(*own.lifetime) if own.lifetime else None,
        )
        yield StoreEnd(own, plug)
