"""Two hosts, a link and a SCSI host over it, and units on stores that wait and fail when they are told to."""

from __future__ import annotations

import hashlib
import random
from contextlib import AbstractAsyncContextManager

import attrs
import trio

from drivers.devices.scsi import Initiator, LogicalUnit, Lun, ScsiDomain, ScsiPlug, ScsiResult, ScsiSettings
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.device.inquiry import UnitIdentity
from vnet.ends.scsi import InitiatorSpec, LunSpec, ScsiSpec, TargetsSpec
from vnet.testing.blk import StorageOptions, StubbornSpec, StubbornStore
from vnet.testing.pair import MEGABYTE, Pair, carried, open_up
from vnet.topology import Topology

__all__ = ["DISK", "ScsiOptions", "ScsiPair", "new_unit", "open_scsi_pair"]

DEVICE = "scsi0"
DISK = Lun(0, 0)
"""The unit that is there at first."""


@attrs.frozen
class StubbornLun(StubbornSpec, LunSpec):
    """A logical unit on a `StubbornStore`."""


@attrs.frozen
class ScsiOptions(StorageOptions):
    """Options of a SCSI pair."""

    luns: tuple[Lun, ...] = (DISK,)

    def topology(self) -> Topology:
        units = tuple(
            StubbornLun(
                size=self.size,
                read_only=self.read_only,
                block_size=self.block_size,
                target=place.target,
                lun=place.lun,
            )
            for place in self.luns
        )
        spec = ScsiSpec(
            type="scsi",
            queue_size=self.queue_size,
            features_off=self.features_off,
            queues=self.queues,
            driver=InitiatorSpec(buffers=self.buffers),
            device=TargetsSpec(units, self.workers),
        )
        return carried({DEVICE: spec}, self.transport, self.link)


class ScsiPair(Pair):
    """The pair, the initiator at its one end and the units at the other."""

    settings: ScsiSettings
    plug: ScsiPlug

    @property
    def store(self) -> StubbornStore:
        """The store of the first unit."""
        store = next(iter(self.domain.units.values())).store
        assert isinstance(store, StubbornStore)
        return store

    @property
    def initiator(self) -> Initiator:
        return self.settings.initiator

    @property
    def domain(self) -> ScsiDomain:
        return self.plug.domain

    def unit(self, lun: Lun = DISK) -> LogicalUnit:
        unit = self.domain.disk(lun)
        assert unit is not None
        return unit

    async def read(self, lba: int, count: int, *, lun: Lun = DISK, fua: bool = False) -> ScsiResult:
        size = count * self.unit(lun).block_size
        return await self.initiator.execute(commands.read(lba, count, fua=fua), lun=lun, data_in=size)

    async def write(self, lba: int, data: bytes, *, lun: Lun = DISK, fua: bool = False) -> ScsiResult:
        count = len(data) // self.unit(lun).block_size
        return await self.initiator.execute(commands.write(lba, count, fua=fua), lun=lun, data_out=data)

    async def transfer(self, size: int = MEGABYTE, device: str = DEVICE) -> None:
        """``size`` bytes, random where the disk can be written to, there and back, compared by hash."""
        unit = self.unit()
        data = random.Random(size).randbytes(size)
        step = min(256 << 10, self.initiator.transfer_max)
        received = bytearray()
        with trio.fail_after(60):
            if unit.store.info.read_only:
                data = bytes(self.store.data[:size])
            for at in range(0, size, step):
                if not unit.store.info.read_only:
                    written = await self.write(at // unit.block_size, data[at : at + step])
                    assert written.good, written
                read = await self.read(at // unit.block_size, len(data[at : at + step]) // unit.block_size)
                assert read.good, read
                received += read.data
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest(), (
            "what was read is not what was written"
        )


def new_unit(size: int = MEGABYTE, serial: str = "new", events: int = 0) -> LogicalUnit:
    """Return a unit of ``size`` bytes to plug in."""
    return LogicalUnit(StubbornStore(size), UnitIdentity(serial), events=events)


def open_scsi_pair(options: ScsiOptions = ScsiOptions()) -> AbstractAsyncContextManager[ScsiPair]:
    """A pair that is up, each unit on a `StubbornStore`, and taken down at the end."""
    return open_up(options.topology(), ScsiPair)
