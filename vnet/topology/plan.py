"""Plans of changes: which parts of a running system have to go and come so that it is as a topology says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from vnet.spec import RemoteEnd
from vnet.topology.join import TABLES, keys_of, select
from vnet.topology.topology import Topology, mebibytes

__all__ = ["KINDS", "Plan", "Step", "plan_changes", "with_carried"]

KINDS = {"hosts": "host", "links": "link", "ntbs": "ntb", "devices": "device"}
"""Name of one part of each table, each table before those that refer to it."""


@attrs.frozen
class Step:
    """A step of a plan."""

    action: str
    """Either remove or add."""
    kind: str
    """Either host, link, ntb or device."""
    name: str
    why: str = ""
    """Keys that differ, or the part that it is on; empty for a part that only one of both topologies has."""

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.name}{f' ({self.why})' if self.why else ''}"


@attrs.frozen
class Plan:
    """Parts to remove, then parts to add, and both as steps."""

    removed: Topology
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
            elif known[name] != given[name]:
                whys[table, name] = "changed: " + ", ".join(_differences(known[name], given[name]))
    for table, name, why in _consequences(running, wanted, whys):
        whys.setdefault((table, name), why)
    new = keys_of(wanted) - keys_of(running)
    removed, added = select(running, whys), select(wanted, whys.keys() | new)
    steps = [
        Step("remove", KINDS[table], name, whys[table, name])
        for table in reversed(KINDS)
        for name in getattr(removed, table)
    ]
    steps += [
        Step("add", KINDS[table], name, whys.get((table, name), ""))
        for table in KINDS
        for name in getattr(added, table)
    ]
    return Plan(removed, added, tuple(steps))


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
        if name in changed and (isinstance(link.root, RemoteEnd) or isinstance(link.endpoint, RemoteEnd)):
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
