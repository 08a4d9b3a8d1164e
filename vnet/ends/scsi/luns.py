"""The logical units of a device that runs, and the stores behind them, which come and go."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from drivers.contracts.ports import SectorStore
from drivers.devices.scsi import LogicalUnit, Lun, ScsiDomain, UnitIdentity
from vnet.ends.scsi.spec import LunSpec
from vnet.linux.background import Held, Shelter

__all__ = ["LunStores"]


@attrs.define(eq=False)
class LunStores:
    """The units of one device, as `vnet.ends.base.Units`."""

    _device: str
    _workers: int
    """Threads of a store that is a file."""
    _shelter: Shelter
    _domain: ScsiDomain = attrs.field(factory=ScsiDomain)
    _held: dict[Lun, Held[SectorStore]] = attrs.field(factory=dict)

    async def open_all(self, luns: Iterable[LunSpec]) -> ScsiDomain:
        """Open the first units, and return the domain with them. Raises ConfigError."""
        self._domain = ScsiDomain({spec.address: await self._open(spec, index) for index, spec in enumerate(luns)})
        return self._domain

    async def add(self, spec: LunSpec, index: int) -> None:
        """Open a unit and plug it in, which the device reports to its initiator. Raises ConfigError."""
        self._domain.add(spec.address, await self._open(spec, index))

    async def remove(self, address: str) -> None:
        """Unplug a unit, which the device reports to its initiator, and close its store.

        Commands under way to it end with the response FAILURE.
        """
        lun = next(each for each in self._held if str(each) == address)
        await self._domain.remove(lun)
        await self._shelter.leave(self._held.pop(lun))

    async def _open(self, spec: LunSpec, index: int) -> LogicalUnit:
        where = f"devices.{self._device}.device.luns[{index}]"
        held = self._held[spec.address] = await self._shelter.enter(spec.open_at(where, self._workers))
        assert held.value is not None
        serial = f"{self._device}-{spec.target}-{spec.lun}" if spec.serial is None else spec.serial
        return LogicalUnit(held.value, UnitIdentity(serial))
