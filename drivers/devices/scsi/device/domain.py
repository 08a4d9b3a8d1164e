"""The targets and logical units of one device, and hotplug, resets and notifications of units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        """Report a reset of a unit to the initiator, if it negotiated such events."""

    def parameters_changed(self, lun: Lun, asc: Asc) -> None:
        """Report a parameter change, if the initiator negotiated such events."""

    def notify(self, lun: Lun, events: AsyncEvent) -> None:
        """Report asynchronous notifications to the initiator."""

    async def abort(self, unit: Unit, *, reset: bool) -> None:
        """End all commands of the unit, and return when they are answered."""


class ScsiDomain:
    """Logical units by `Lun`. Changes are reported to the initiator of a running device."""

    def __init__(self, units: Mapping[Lun, LogicalUnit] | None = None) -> None:
        self._units: dict[Lun, LogicalUnit] = {}
        self._targets: dict[int, tuple[AbsentUnit, ReportLunsUnit]] = {}
        self._all = ReportLunsUnit(lambda: [lun.emit_reported() for lun in sorted(self._units)])
        self._listener: DomainListener | None = None
        for lun, unit in (units or {}).items():
            self._add(lun, unit)

    @contextmanager
    def reports_to(self, listener: DomainListener) -> Iterator[None]:
        """Report changes to ``listener`` within the context."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    @property
    def units(self) -> Mapping[Lun, LogicalUnit]:
        return dict(sorted(self._units.items()))

    def disk(self, lun: Lun) -> LogicalUnit | None:
        """Return the logical unit at ``lun``, or None."""
        return self._units.get(lun)

    def find(self, lun: Lun) -> Unit | None:
        """Return the unit that serves ``lun``, or None if the domain has no such target."""
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
        """Plug in a unit. Raises ValueError if the address is taken or invalid."""
        self._add(lun, unit)
        for other in self._neighbours(lun):
            other.attention(Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
        unit.reset(Asc.POWER_ON_OR_RESET)
        if self._listener is not None:
            self._listener.transport_reset(lun, ResetReason.RESCAN)

    async def remove(self, lun: Lun) -> LogicalUnit:
        """Unplug a unit and wait until its commands are answered; its store is unused then. Raises KeyError."""
        unit = self._units.pop(lun)
        unit.unplug()
        if not any(other.target == lun.target for other in self._units):
            del self._targets[lun.target]
        for other in self._neighbours(lun):
            other.attention(Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
        if self._listener is not None:
            await self._listener.abort(unit, reset=False)
        if self._listener is not None:  # the device may have been reset meanwhile
            self._listener.transport_reset(lun, ResetReason.REMOVED)
        return unit

    async def reset(self, lun: Lun) -> None:
        """Reset a unit: end its commands and clear its state, as after a hardware failure. Raises KeyError."""
        unit = self._units[lun]
        if self._listener is not None:
            await self._listener.abort(unit, reset=True)
        unit.reset(Asc.POWER_ON_OR_RESET)
        if self._listener is not None:
            self._listener.transport_reset(lun, ResetReason.HARD)

    def resized(self, lun: Lun) -> None:
        """Report that the unit's store has changed its size. Raises KeyError."""
        self._units[lun].attention(Asc.CAPACITY_DATA_HAS_CHANGED)
        if self._listener is not None:
            self._listener.parameters_changed(lun, Asc.CAPACITY_DATA_HAS_CHANGED)

    def notify(self, lun: Lun, events: AsyncEvent) -> None:
        """Report those of the events that the initiator has subscribed to. Raises KeyError."""
        subscribed = AsyncEvent(self._units[lun].subscribed & events)
        if subscribed and self._listener is not None:
            self._listener.notify(lun, subscribed)

    def _add(self, lun: Lun, unit: LogicalUnit) -> None:
        if not (0 <= lun.target < TARGETS and 0 <= lun.lun < LUNS):
            raise ValueError(f"{lun}: no valid address: target must be 0 to 255, LUN 0 to {LUNS - 1}")
        if lun in self._units:
            raise ValueError(f"{lun}: there is already a logical unit")
        target = lun.target

        def inventory() -> list[bytes]:
            return [other.emit_single() for other in sorted(self._units) if other.target == target]

        self._units[lun] = unit
        unit.plug_in(inventory)
        self._targets.setdefault(target, (AbsentUnit(inventory), ReportLunsUnit(inventory)))

    def _neighbours(self, lun: Lun) -> list[LogicalUnit]:
        return [unit for other, unit in self._units.items() if other.target == lun.target and other != lun]
