"""The commands that change a running system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drivers.errors import DriverError
from vnet.errors import ConfigError, ControlError, PrivilegeError, settings_of
from vnet.linux.privileges.confinement import name_sandbox
from vnet.qmp.change_records import (
    ChangeStep,
    DeviceAddition,
    DeviceDeletion,
    LunAddition,
    PartChoice,
    SideChoice,
    TopologyChange,
    WantedTopology,
)
from vnet.qmp.codec import QmpError, not_found
from vnet.qmp.qapi import Empty
from vnet.qmp.records import LinkChoice
from vnet.system.device_keys import KEYS
from vnet.system.world import World
from vnet.topology import Topology
from vnet.topology.plan import KINDS, UNITS
from vnet.topology.reader import from_tables, parse_unit
from vnet.transports import CARRIERS, TRANSPORTS

__all__ = ["add", "apply", "bind", "change", "device_add", "device_del", "lun_add", "remove", "start", "stop", "unbind"]

PROBLEMS = 10
"""Most problems of a topology in one error."""
DONE = Empty()


@contextmanager
def _refusals(file: str) -> Iterator[None]:
    """Raise the refusal of a change as the error of its command; ``file`` is the name of the topology in it."""
    try:
        with settings_of(file):
            yield
    except ConfigError as exc:
        more = len(exc.all) - PROBLEMS
        problems = [*map(str, exc.all[:PROBLEMS]), *([f"{more} more problems"] if more > 0 else [])]
        raise QmpError(name_sandbox("; ".join(problems))) from None
    except (ControlError, DriverError, PrivilegeError) as exc:
        raise QmpError(name_sandbox(str(exc))) from None


def _steps(action: str, parts: Topology) -> tuple[ChangeStep, ...]:
    return tuple(ChangeStep(action, kind, name) for table, kind in KINDS.items() for name in getattr(parts, table))


async def add(world: World, arguments: TopologyChange) -> tuple[ChangeStep, ...]:
    """Add parts, all or none, and return them once their devices are up."""
    with _refusals(arguments.file):
        new = from_tables(arguments.topology, arguments.file, world.topology)
        await world.add(new)
    return _steps("add", new)


async def remove(world: World, arguments: PartChoice) -> tuple[ChangeStep, ...]:
    """Remove a part with all that is on it, and return what was removed."""
    with _refusals(""):
        removed = await world.remove(arguments.name, surprise=arguments.surprise)
    return tuple(ChangeStep("remove", (KINDS | UNITS)[table], name) for table, name in removed)


async def lun_add(world: World, arguments: LunAddition) -> tuple[ChangeStep, ...]:
    """Add a LUN to a running SCSI host, which reports it to its driver, and return it."""
    with _refusals(arguments.file):
        if (spec := world.topology.devices.get(arguments.name)) is None or spec.unit is None:
            scsi = ", ".join(name for name, each in world.topology.devices.items() if each.unit is not None)
            raise QmpError(f"{arguments.name}: must be a SCSI host{f', such as {scsi}' if scsi else '; there is none'}")
        added = await world.add_unit(arguments.name, parse_unit(arguments.name, spec, arguments.lun, arguments.file))
    return (ChangeStep("add", "lun", added),)


async def apply(world: World, arguments: WantedTopology) -> tuple[ChangeStep, ...]:
    """Make the system what a topology says, by the fewest removals and additions, and return them."""
    with _refusals(arguments.file):
        wanted = from_tables(arguments.topology, arguments.file, sized=False)
        steps = await world.apply(wanted, dry_run=arguments.preview)
    return tuple(ChangeStep(step.action, step.kind, step.name, step.why) for step in steps)


async def bind(world: World, arguments: SideChoice) -> Empty:
    """Bind a side of a device again, and return once the device is up, unless its other side is unbound."""
    with _refusals(""):
        await world.bind(arguments.name, arguments.side)
    return DONE


async def unbind(world: World, arguments: SideChoice) -> Empty:
    """Unbind a side of a device until it is bound again."""
    with _refusals(""):
        await world.unbind(arguments.name, arguments.side)
    return DONE


async def change(world: World, name: str, key: str, value: str) -> None:
    """Change a key of a device whose driver is unbound. Raises QmpError."""
    try:
        parsed = KEYS[key].parse(value)
    except ValueError as exc:
        raise QmpError(f"{name}: {key} {value!r}: {exc}") from None
    with _refusals(""):
        await world.change(name, **{key: parsed})


async def start(world: World, arguments: LinkChoice) -> Empty:
    """Start the endpoint controller of a link: the endpoint is present."""
    with _refusals(""):
        await world.start(arguments.name)
    return DONE


async def stop(world: World, arguments: LinkChoice) -> Empty:
    """Stop the endpoint controller of a link: the endpoint is absent, as if its card was pulled."""
    with _refusals(""):
        await world.stop(arguments.name)
    return DONE


async def device_add(world: World, arguments: DeviceAddition) -> Empty:
    """Add a device, and return once it is up."""
    keys: dict[str, Any] = {"type": arguments.driver}
    for name, value in arguments.properties.items():
        _put(keys, name, value)
    if arguments.bus is not None:
        transport = TRANSPORTS.get(str(keys.get("transport", "pci")))
        carrier = CARRIERS[0] if transport is None else transport.on
        keys.setdefault(carrier, arguments.bus)
    with _refusals(""):
        await world.add(from_tables({"devices": {arguments.id: keys}}, "", world.topology))
    return DONE


def _put(keys: dict[str, Any], name: str, value: object) -> None:
    """Set the key with a dotted name. Raises QmpError if a part of the name is no table."""
    *tables, last = name.split(".")
    for table in tables:
        inner = keys.setdefault(table, {})
        if not isinstance(inner, dict):
            raise QmpError(f"Parameter '{name}': {table} must be a table")
        keys = inner
    keys[last] = value


async def device_del(world: World, arguments: DeviceDeletion) -> Empty:
    """Remove a device. The event DEVICE_DELETED follows."""
    if arguments.id not in world.topology.devices:
        raise not_found(f"Device '{arguments.id}' not found")
    with _refusals(""):
        await world.remove(f"devices.{arguments.id}")
    return DONE
