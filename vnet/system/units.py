"""Units of running devices, such as LUNs: they come and go while their device runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import attrs
import trio

from drivers.contracts.events import PartMoved, Source
from vnet.ends.base import Units
from vnet.errors import ConfigError, ControlError
from vnet.names import named
from vnet.spec import DeviceSpec
from vnet.system.parts import Parts
from vnet.system.tables import System
from vnet.topology import Topology
from vnet.topology.join import join, select, without
from vnet.topology.plan import unit_changes, unit_name

__all__ = ["UnitChanges"]


class UnitChanges:
    """The units of the devices of one system. One task at a time may call the methods."""

    def __init__(self, system: System, parts: Parts, record: Callable[[Topology], None]) -> None:
        self._system = system
        self._parts = parts
        self._record = record

    def with_unit(self, device: str, record: Any) -> DeviceSpec:
        """Return the record of a running device with one more unit. Raises ConfigError, ControlError."""
        self._running(device)
        running = self._system.topology
        old, own = running.devices[device], select(running, {("devices", device)})
        changed = old.with_units([*old.units.values(), record])
        whole, _ = join(without(running, own), attrs.evolve(own, devices={device: changed}))
        return whole.devices[device]

    def without_unit(self, device: str, unit: str) -> DeviceSpec:
        """Return the record of a running device without a unit. Raises ControlError."""
        self._running(device)
        old = self._system.topology.devices[device]
        named(f"LUN of {device}", old.units, unit, ControlError)
        return old.with_units([record for address, record in old.units.items() if address != unit])

    async def set(self, specs: Mapping[str, DeviceSpec], *, surprise: bool = False) -> None:
        """Give running devices the units in their new records, all or none.

        Unless with ``surprise``, requests under way to a device that loses a unit are finished first. Raises
        ConfigError if a unit can't be opened, OSError, ControlError.
        """
        running = self._system.topology
        before = {name: running.devices[name] for name in specs}
        try:
            self._record(attrs.evolve(running, devices={**running.devices, **specs}))
            for name, spec in specs.items():
                await self._set(name, spec, drain=not surprise)
        except BaseException as exc:
            with trio.CancelScope(shield=True):
                await self.restore(before, exc)
            raise

    async def restore(self, before: Mapping[str, DeviceSpec], error: BaseException) -> None:
        """Give devices back their earlier units, after an ``error``. Raises ControlError if one can't be opened."""
        try:
            for name, spec in before.items():
                await self._set(name, spec, drain=False)
        except (ConfigError, OSError) as exc:
            raise ControlError(f"{error}; and the LUNs of {name} can't be made again: {exc}") from None
        finally:
            self._record(self._system.topology)

    async def _set(self, name: str, spec: DeviceSpec, *, drain: bool) -> None:
        """Change the units of one device; its record always has those that it has."""
        gone, come = unit_changes(self._system.topology.devices[name], spec)
        if not (gone or come):
            return
        units = self._running(name)
        device = select(self._system.topology, {("devices", name)})
        async with self._parts.drained(device) if gone and drain else nullcontext():
            for address in gone:
                try:
                    with trio.CancelScope(shield=True):
                        await units.remove(address)
                finally:
                    self._parts.replace(name, self.without_unit(name, address))
        for address, record in come.items():
            old = self._system.topology.devices[name]
            await units.add(record, list(spec.units).index(address))
            self._parts.replace(name, old.with_units([*old.units.values(), record]))
        self._parts.replace(name, spec)

    def _running(self, name: str) -> Units:
        """Return the units of a running device. Raises ControlError."""
        device = named("device", self._system.devices, name, ControlError)
        spec = self._system.topology.devices.get(name)
        if spec is None or spec.unit is None:
            raise ControlError(f"{name}: a {device.spec.type} device has no LUNs")
        if device.device_end.units is None:
            raise ControlError(f"{name}: its device, with its LUNs, is in another process")
        return device.device_end.units

    def report(self, device: str, units: Iterable[str], *, present: bool) -> None:
        """Emit an event per unit that came or went."""
        if (emit := self._system.events.lifecycle) is not None:
            for unit in units:
                source = Source(device=device)
                emit(PartMoved(trio.current_time(), source, "lun", unit_name(device, unit), present))
