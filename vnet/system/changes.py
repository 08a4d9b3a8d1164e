"""Changes of a running system: each happens as a whole or not at all, and one follows another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from drivers.contracts.events import PartMoved, Source
from drivers.errors import DriverError
from vnet.ends.base import SideName
from vnet.errors import ConfigError, ControlError, FieldError, PrivilegeError
from vnet.names import named
from vnet.process_ends import ProcessEnd
from vnet.system.device import Device
from vnet.system.parts import Parts
from vnet.system.tables import System
from vnet.system.units import UnitChanges
from vnet.topology import Topology, check
from vnet.topology.join import FILE, join, keys_of, select, union, without
from vnet.topology.plan import KINDS, Step, plan_changes, unit_changes, unit_name, with_carried

__all__ = ["Changes", "Record", "no_record"]

Record = Callable[[Topology], None]
"""Takes the topology of a running system when it changes. Raises OSError if it can't record it."""


def no_record(topology: Topology) -> None:
    """Do nothing: nothing outside the process keeps a record of the system."""


class Changes:
    """The operations on one system."""

    def __init__(self, system: System, parts: Parts, record: Record) -> None:
        self._system = system
        self._parts = parts
        self._record = record
        self._units = UnitChanges(system, parts, record)
        self._lock = trio.Lock()

    async def begin(self, topology: Topology) -> None:
        """Make the first parts, which are not waited for. Raises as `add` does."""
        whole = topology.sized()
        await self._parts.make(whole, whole)

    async def add(self, topology: Topology, *, timeout: float, present: bool) -> None:
        """See `vnet.system.world.World.add`."""
        async with self._lock:
            whole, new = join(self._system.topology, topology)
            await self._make(new, whole, present=present)
            made = self._running(new)
        if timeout and present:
            try:
                await self._wait_up(made, timeout)
            except BaseException:
                with trio.CancelScope(shield=True):
                    async with self._lock:
                        now = self._running(new)
                        await self._take(select(new, {key for key, each in made.items() if now.get(key) is each}))
                raise
        self._report(new, present=True)

    async def _make(self, new: Topology, whole: Topology, *, present: bool = True) -> None:
        try:
            self._record(whole)
            await self._parts.make(new, whole, present=present)
        except BaseException:
            self._record(self._system.topology)
            raise

    async def _take(self, parts: Topology, *, surprise: bool = True) -> None:
        """Take parts away, with all that is on them. Raises ControlError, before anything is gone."""
        running = self._system.topology
        parts = with_carried(running, select(running, keys_of(parts)))
        if not surprise:
            await self._parts.drain(parts)
        with trio.CancelScope(shield=True):
            try:
                await self._parts.take(parts, surprise=surprise)
            finally:
                self._record(self._system.topology)

    async def _wait_up(self, made: Mapping[tuple[str, str], object], timeout: float) -> None:
        devices = [part for part in made.values() if isinstance(part, Device)]
        names = [each.name for device in devices for each in (device, device.local) if each is not None]
        await self._system.readiness.wait_up(timeout, names)

    def _running(self, parts: Topology) -> dict[tuple[str, str], object]:
        """Return the running parts with the names of ``parts``, by table and name."""
        running = {table: getattr(self._system, table) for table in KINDS}
        return {
            (table, name): running[table][name]
            for table in KINDS
            for name in getattr(parts, table)
            if name in running[table]
        }

    def _report(self, parts: Topology, *, present: bool) -> None:
        if (emit := self._system.events.lifecycle) is not None:
            for table in KINDS if present else reversed(KINDS):
                for name in getattr(parts, table):
                    kind = KINDS[table]
                    place = {} if kind == "ntb" else {kind: name}
                    emit(PartMoved(trio.current_time(), attrs.evolve(Source(), **place), kind, name, present))

    async def add_unit(self, name: str, record: Any) -> str:
        """See `vnet.system.world.World.add_unit`."""
        async with self._lock:
            spec = self._units.with_unit(name, record)
            address = list(spec.units)[-1]
            await self._units.set({name: spec})
            self._units.report(name, [address], present=True)
        return unit_name(name, address)

    async def remove(self, name: str, *, surprise: bool) -> tuple[tuple[str, str], ...]:
        """See `vnet.system.world.World.remove`."""
        device, colon, unit = name.partition(":")
        async with self._lock:
            if colon:
                await self._units.set({device: self._units.without_unit(device, unit)}, surprise=surprise)
                self._units.report(device, [unit], present=False)
                return (("luns", name),)
            parts = self._removable(*self._find(name))
            await self._take(parts, surprise=surprise)
        self._report(parts, present=False)
        return tuple((table, name) for table in reversed(KINDS) for name in getattr(parts, table))

    async def apply(self, wanted: Topology, *, dry_run: bool, timeout: float) -> tuple[Step, ...]:
        """See `vnet.system.world.World.apply`."""
        async with self._lock:
            before = self._system.topology
            plan = plan_changes(before, check(wanted, FILE))
            kept = without(before, plan.removed)
            whole, new = join(attrs.evolve(kept, devices={**kept.devices, **plan.units}), plan.added)
            if dry_run:
                return plan.steps
            await self._take(plan.removed, surprise=False)
            old = {name: before.devices[name] for name in plan.units}
            try:
                await self._units.set({name: whole.devices[name] for name in plan.units})
                await self._make(new, whole)
                await self._wait_up(self._running(new), timeout)
            except BaseException as exc:
                with trio.CancelScope(shield=True):
                    await self._take(new)
                    await self._units.restore(old, exc)
                    await self._restore(plan.removed, kept, exc)
                raise
        self._report(plan.removed, present=False)
        for name, spec in old.items():
            gone, come = unit_changes(spec, whole.devices[name])
            self._units.report(name, gone, present=False)
            self._units.report(name, come, present=True)
        self._report(new, present=True)
        return plan.steps

    async def _restore(self, removed: Topology, kept: Topology, error: BaseException) -> None:
        """Make the parts again that an ``error`` after their removal is the end of."""
        try:
            await self._make(removed, union(kept, removed))
        except (ConfigError, DriverError, PrivilegeError, OSError) as exc:
            names = ", ".join(name for table in KINDS for name in getattr(removed, table))
            raise ControlError(f"{error}; and {names} can't be made again: {exc}") from None

    def _find(self, name: str) -> tuple[str, str]:
        """Return the table and the name of a running part. Raises ControlError."""
        topology = self._system.topology
        known = [(table, each) for table in reversed(KINDS) for each in getattr(topology, table)]
        matches = [(table, each) for table, each in known if name in (each, f"{table}.{each}")]
        if len(matches) > 1:
            raise ControlError(f"{name}: must be one of {', '.join(f'{table}.{each}' for table, each in matches)}")
        return (
            matches[0] if matches else named("part", {each: (table, each) for table, each in known}, name, ControlError)
        )

    def _removable(self, table: str, name: str) -> Topology:
        """Return a part with all that is on it. Raises ControlError for a host in use, or a part of a remote link."""
        running = self._system.topology
        parts = with_carried(running, select(running, {(table, name)}))
        if table == "hosts" and (parts.devices or parts.ntbs or parts.links):
            users = [*parts.devices, *parts.ntbs, *parts.links]
            raise ControlError(f"host {name}: remove what uses it first: {', '.join(users)}")
        link = running.links.get(running.devices[name].link or "") if table == "devices" else None
        if link is not None and link.remote:
            raise ControlError(
                f"device {name}: comes and goes with its link, which leads to another process; "
                f"try: vnet remove {running.devices[name].link}"
            )
        return parts

    # Drivers and controllers

    async def unbind(self, name: str, side: SideName) -> None:
        """See `vnet.system.world.World.unbind`."""
        async with self._lock:
            device = self._device(name, side)
            if side == "driver":
                await device.driver_host.virtio.unbind(device.location)
            else:
                await device.device_host.vhost.unbind(device.name)

    async def bind(self, name: str, side: SideName, *, timeout: float) -> None:
        """See `vnet.system.world.World.bind`."""
        async with self._lock:
            device = self._device(name, side)
            if side == "driver":
                device.driver_host.virtio.bind(device.location)
            else:
                device.device_host.vhost.bind(device.name)
        if timeout:
            await self._system.readiness.wait_up(timeout, [name])

    def _device(self, name: str, side: SideName) -> Device:
        """Return a device with this side in this process. Raises ControlError."""
        device = named("device", self._system.devices, name, ControlError)
        if not (device.spec.driven if side == "driver" else device.back is not None):
            raise ControlError(f"{name}: its {side} is in another process")
        return device

    async def change(self, name: str, keys: Mapping[str, Any]) -> None:
        """See `vnet.system.world.World.change`."""
        async with self._lock:
            device = self._device(name, "device")
            virtio, sides = device.driver_host.virtio, tuple(device.unbound)
            if "driver" not in sides:
                raise ControlError(f"{name}: its driver uses it; try: vnet unbind {name} driver")
            old = select(self._system.topology, {("devices", name)})
            kept = without(self._system.topology, old)
            try:
                changed = attrs.evolve(old.devices[name], **keys)
            except FieldError as exc:
                raise ConfigError.of(FILE, [exc.inside("devices", name)]) from None
            whole, new = join(kept, attrs.evolve(old, devices={name: changed}))
            await self._take(old)
            virtio.hold(device.location)
            try:
                await self._make(new, whole)
            except BaseException as exc:
                with trio.CancelScope(shield=True):
                    await self._restore(old, kept, exc)
                raise
            finally:
                with trio.CancelScope(shield=True):
                    await self._hold_again(device, sides)

    async def _hold_again(self, old: Device, sides: Sequence[SideName]) -> None:
        """Unbind these sides of a device that was made again in the place of ``old``."""
        new = self._system.devices.get(old.name)
        if new is None or new.location != old.location:
            old.driver_host.virtio.bind(old.location)
        if new is not None:
            await new.driver_host.virtio.unbind(new.location)
            if "device" in sides:
                await new.device_host.vhost.unbind(new.name)

    async def set_present(self, name: str, *, present: bool) -> None:
        """See `vnet.system.world.World.start` and `stop`."""
        async with self._lock:
            link = named("link", self._system.links, name, ControlError)
            if isinstance(self._system.topology.links[name].endpoint, ProcessEnd):
                raise ControlError(f"{name}: its endpoint is in another process")
            link.set_present(present)
            await trio.lowlevel.checkpoint()
