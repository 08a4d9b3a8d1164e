"""Plans of changes: which parts of a running system have to go and come so that it is as a topology says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from vnet.spec import DeviceSpec
from vnet.topology.join import TABLES, keys_of, select
from vnet.topology.topology import Topology, mebibytes

__all__ = ["KINDS", "UNITS", "Plan", "Step", "plan_changes", "unit_changes", "unit_name", "with_carried"]

KINDS = {"hosts": "host", "links": "link", "ntbs": "ntb", "devices": "device"}
"""Name of one part of each table, each table before those that refer to it."""
UNITS = {"luns": "lun"}
"""Name of the units of running devices, and of one of them."""


@attrs.frozen
class Step:
    """A step of a plan."""

    action: str
    """Either remove or add."""
    kind: str
    """Either host, link, ntb, device or lun."""
    name: str
    why: str = ""
    """Keys that differ, or the part that it is on; empty for a part that only one of both topologies has."""

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.name}{f' ({self.why})' if self.why else ''}"


@attrs.frozen
class Plan:
    """Parts to remove, then units of running devices to remove and to add, then parts to add, and all as steps."""

    removed: Topology
    units: Mapping[str, DeviceSpec]
    """Records of the devices whose units change, by name."""
    added: Topology
    steps: tuple[Step, ...]


def plan_changes(running: Topology, wanted: Topology) -> Plan:
    """Return the least changes that make a system, which has the topology ``running``, what ``wanted`` says.

    Parts that differ are removed and added, with those on them. Sizes that ``wanted`` leaves open stay as they are if
    they are large enough.
    """
    wanted = _keep_sizes(running, wanted)
    whys: dict[tuple[str, str], str] = {}
    for table in TABLES:
        known, given = getattr(running, table), getattr(wanted, table)
        for name in known:
            if name not in given:
                whys[table, name] = ""
            elif table == "devices" and _same_but_units(known[name], given[name]):
                continue
            elif known[name] != given[name]:
                whys[table, name] = "changed: " + ", ".join(_differences(known[name], given[name]))
    for table, name, why in _consequences(running, wanted, whys):
        whys.setdefault((table, name), why)
    new = keys_of(wanted) - keys_of(running)
    removed, added = select(running, whys), select(wanted, whys.keys() | new)
    units = {
        name: wanted.devices[name]
        for name, device in running.devices.items()
        if ("devices", name) not in whys and any(unit_changes(device, wanted.devices[name]))
    }
    steps = [
        Step("remove", KINDS[table], name, whys[table, name])
        for table in reversed(KINDS)
        for name in getattr(removed, table)
    ]
    for name, device in units.items():
        gone, come = unit_changes(running.devices[name], device)
        steps += [Step("remove", "lun", unit_name(name, unit), why) for unit, why in gone.items()]
        steps += [Step("add", "lun", unit_name(name, unit), gone.get(unit, "")) for unit in come]
    steps += [
        Step("add", KINDS[table], name, whys.get((table, name), ""))
        for table in KINDS
        for name in getattr(added, table)
    ]
    return Plan(removed, units, added, tuple(steps))


def unit_name(device: str, unit: str) -> str:
    """Return the name of a unit of a device, such as scsi0:0:1."""
    return f"{device}:{unit}"


def unit_changes(running: DeviceSpec, wanted: DeviceSpec) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Return the units to remove, each with the keys that differ, and those to add, so that a device has the wanted."""
    known, given = running.units, wanted.units
    gone = {
        unit: "changed: " + ", ".join(_differences(record, given[unit])) if unit in given else ""
        for unit, record in known.items()
        if record != given.get(unit)
    }
    return gone, {unit: record for unit, record in given.items() if record != known.get(unit)}


def _same_but_units(known: DeviceSpec, given: DeviceSpec) -> bool:
    """Return whether nothing but the units of a device of this process differs."""
    return (
        known.unit is not None
        and not known.foreign
        and type(known) is type(given)
        and known.with_units(()) == given.with_units(())
    )


def with_carried(topology: Topology, parts: Topology) -> Topology:
    """Return ``parts`` of a topology with all that is on them."""
    whys = dict.fromkeys(keys_of(parts), "")
    for table, name, why in _on(topology, whys):
        whys.setdefault((table, name), why)
    return select(topology, whys)


def _consequences(
    running: Topology, wanted: Topology, whys: dict[tuple[str, str], str]
) -> Iterator[tuple[str, str, str]]:
    """Yield the parts that have to go because others do, with the reason. ``whys`` grows meanwhile."""
    changed = {device.link for name, device in running.devices.items() if ("devices", name) in whys}
    changed |= {device.link for name, device in wanted.devices.items() if name not in running.devices}
    for name, link in running.links.items():
        if name in changed and link.remote:
            yield "links", name, "leads to another process, so its devices change with it"
    yield from _on(running, whys)


def _on(topology: Topology, whys: dict[tuple[str, str], str]) -> Iterator[tuple[str, str, str]]:
    """Yield the parts of a topology that are on one of those that go, with the reason. ``whys`` grows meanwhile."""
    for name, link in topology.links.items():
        for host in link.ends:
            if ("hosts", host) in whys:
                yield "links", name, f"on host {host}"
    for name, ntb in topology.ntbs.items():
        for table, on in (("hosts", ntb.host), ("links", ntb.primary), ("links", ntb.secondary)):
            if (table, on) in whys:
                yield "ntbs", name, f"on {KINDS[table]} {on}"
    for name, device in topology.devices.items():
        for table, carrier in (("hosts", device.host), ("links", device.link), ("ntbs", device.ntb)):
            if carrier is not None and (table, carrier) in whys:
                yield "devices", name, f"on {KINDS[table]} {carrier}"


def _differences(known: Any, given: Any) -> Iterator[str]:
    """Yield the names of the keys in which two records differ."""
    if type(known) is not type(given):
        yield "type"
        return
    for field in attrs.fields(type(known)):
        mine, other = getattr(known, field.name), getattr(given, field.name)
        if mine != other:
            yield from _differences(mine, other) if field.name == "options" else (field.name,)


def _keep_sizes(running: Topology, wanted: Topology) -> Topology:
    """Return the topology with all sizes filled in: those of running parts, if it leaves them open and they fit."""
    ntbs = {
        name: attrs.evolve(ntb, mw=ntb.mw or (running.ntbs[name].mw if name in running.ntbs else None))
        for name, ntb in wanted.ntbs.items()
    }
    kept = attrs.evolve(wanted, ntbs=ntbs).sided()
    for name, (_, need) in kept.windows().items():
        if need > (ntbs[name].mw or 0):
            ntbs[name] = wanted.ntbs[name]
    kept = attrs.evolve(kept, ntbs=ntbs)
    needs = kept.sized().needs(foreign=True)
    hosts = {}
    for name, host in wanted.hosts.items():
        memory = running.hosts[name].memory if name in running.hosts else None
        fits = memory is not None and mebibytes(needs[name]) <= memory
        hosts[name] = attrs.evolve(host, memory=memory) if host.memory is None and fits else host
    return attrs.evolve(kept, hosts=hosts).sized()
