"""The targets and logical units of one device, and what happens to them while initiators look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from drivers.devices.scsi.device.disk import LogicalUnit
from drivers.devices.scsi.device.primary import AbsentUnit, ReportLunsUnit
from drivers.devices.scsi.device.unit import Unit
from drivers.devices.scsi.layout import LUNS, REPORT_LUNS, WELL_KNOWN, AsyncEvent, Lun, ResetReason
from drivers.devices.scsi.sense import Asc

__all__ = ["DomainListener", "ScsiDomain"]

TARGETS = 256


class DomainListener(Protocol):
    """A device that serves a domain, from DRIVER_OK to reset."""

    def transport_reset(self, lun: Lun, reason: ResetReason) -> None:
        """Tell the initiator, as far as it wants to know."""

    def parameters_changed(self, lun: Lun, asc: Asc) -> None: ...

    def notify(self, lun: Lun, events: AsyncEvent) -> None: ...

    async def abort(self, unit: Unit, *, reset: bool) -> None:
        """End every command that the unit has, and return when they are answered."""


class ScsiDomain:
    """Logical units by `Lun`. What is done here to one that initiators know is told to them."""

    def __init__(self, units: Mapping[Lun, LogicalUnit] | None = None) -> None:
        self._units: dict[Lun, LogicalUnit] = {}
        self._targets: dict[int, tuple[AbsentUnit, ReportLunsUnit]] = {}
        self._all = ReportLunsUnit(lambda: [lun.emit_reported() for lun in sorted(self._units)])
        self.listener: DomainListener | None = None
        for lun, unit in (units or {}).items():
            self._add(lun, unit)

    @property
    def units(self) -> Mapping[Lun, LogicalUnit]:
        return dict(sorted(self._units.items()))

    def disk(self, lun: Lun) -> LogicalUnit | None:
        """The logical unit there."""
        return self._units.get(lun)

    def find(self, lun: Lun) -> Unit | None:
        """Who answers at that place; None where there is no such target."""
        unit = self._units.get(lun)
        if unit is not None:
            return unit
        if lun == REPORT_LUNS:
            return self._all
        target = self._targets.get(lun.target)
        if target is None:
            return None
        return target[lun.lun == WELL_KNOWN]

    def add(self, lun: Lun, unit: LogicalUnit) -> None:
        """Plug a unit in. Raises ValueError where one is, or where none can be."""
        self._add(lun, unit)
        for other in self._neighbours(lun):
            other.attention(Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
        unit.reset(Asc.POWER_ON_OR_RESET)
        if self.listener is not None:
            self.listener.transport_reset(lun, ResetReason.RESCAN)

    async def remove(self, lun: Lun) -> LogicalUnit:
        """Unplug a unit, once all its commands are answered; nothing uses its store any more then. Raises KeyError."""
        unit = self._units.pop(lun)
        unit.inventory = tuple
        if not any(other.target == lun.target for other in self._units):
            del self._targets[lun.target]
        for other in self._neighbours(lun):
            other.attention(Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
        if self.listener is not None:
            await self.listener.abort(unit, reset=False)
        if self.listener is not None:  # it may have gone meanwhile
            self.listener.transport_reset(lun, ResetReason.REMOVED)
        return unit

    async def reset(self, lun: Lun) -> None:
        """A unit loses its commands and its state, as after a failure of its own. Raises KeyError."""
        unit = self._units[lun]
        if self.listener is not None:
            await self.listener.abort(unit, reset=True)
        unit.reset(Asc.POWER_ON_OR_RESET)
        if self.listener is not None:
            self.listener.transport_reset(lun, ResetReason.HARD)

    def resized(self, lun: Lun) -> None:
        """Its store has another size. Raises KeyError."""
        self._units[lun].attention(Asc.CAPACITY_DATA_HAS_CHANGED)
        if self.listener is not None:
            self.listener.parameters_changed(lun, Asc.CAPACITY_DATA_HAS_CHANGED)

    def notify(self, lun: Lun, events: AsyncEvent) -> None:
        """Those of the events that the initiator subscribed to are told. Raises KeyError."""
        wanted = AsyncEvent(self._units[lun].subscribed & events)
        if wanted and self.listener is not None:
            self.listener.notify(lun, wanted)

    def _add(self, lun: Lun, unit: LogicalUnit) -> None:
        if not (0 <= lun.target < TARGETS and 0 <= lun.lun < LUNS):
            raise ValueError(f"{lun} is no place for a logical unit: targets are 0 to 255, LUNs 0 to {LUNS - 1}")
        if lun in self._units:
            raise ValueError(f"there is a logical unit at {lun}")
        target = lun.target

        def inventory() -> list[bytes]:
            return [found.emit_single() for found in sorted(self._units) if found.target == target]

        self._units[lun] = unit
        unit.inventory = inventory
        self._targets.setdefault(target, (AbsentUnit(inventory), ReportLunsUnit(inventory)))

    def _neighbours(self, lun: Lun) -> list[LogicalUnit]:
        return [unit for other, unit in self._units.items() if other.target == lun.target and other != lun]
