"""A topology as it is simulated: in one process, with ports and stores in memory, and faults by the run's seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from vnet.errors import ConfigError, FieldError
from vnet.link.wire.impairments import FAULTS
from vnet.sim.seeds import stream
from vnet.spec import FaultSpec, LinkSpec, WireSpec
from vnet.topology import Topology

__all__ = ["draws_faults", "for_bring_up", "simulated"]

UNREPAIRED = tuple(fault.value for fault, kind in FAULTS.items() if not kind.repaired)
"""Chances of a wire whose faults fail requests."""


def simulated(topology: Topology, seed: int) -> Topology:
    """Return ``topology`` for a simulation. Raises ConfigError if a part of it is in another process."""
    problems = list(_outside(topology))
    if problems:
        raise ConfigError.of("topology", problems)
    return attrs.evolve(
        topology,
        links={name: _link(link, seed, name) for name, link in topology.links.items()},
        devices={name: device.in_memory() for name, device in topology.devices.items()},
    )


def _outside(topology: Topology) -> Iterator[FieldError]:
    for name, link in topology.links.items():
        if link.remote:
            yield FieldError(("links", name), None, "leads to another process, which a simulation cannot run")
    for name, device in topology.devices.items():
        if device.socket is not None:
            why = "must be absent: a simulation cannot run another process"
            yield FieldError(("devices", name, "socket"), device.socket, why)


def for_bring_up(topology: Topology) -> Topology:
    """Return a simulated topology with wires that fail no request, since a driver whose probe fails stays unbound."""
    links = {}
    for name, link in topology.links.items():
        none: dict[str, Any] = dict.fromkeys(UNREPAIRED, 0.0)
        wire = link.wire and attrs.evolve(link.wire, **none)
        links[name] = attrs.evolve(link, wire=wire)
    return attrs.evolve(topology, links=links)


def draws_faults(link: LinkSpec) -> bool:
    """Return whether a link of a simulated topology has faults of its own."""
    return attrs.evolve(link.faults or FaultSpec(), seed=0) != FaultSpec() or (
        link.wire is not None and attrs.evolve(link.wire, seed=0) != WireSpec()
    )


def _link(link: LinkSpec, seed: int, name: str) -> LinkSpec:
    faults = attrs.evolve(link.faults or FaultSpec(), seed=stream(seed, f"link {name}").getrandbits(32))
    wire = link.wire and attrs.evolve(link.wire, seed=stream(seed, f"wire {name}").getrandbits(32))
    return attrs.evolve(link, faults=faults, wire=wire, trace=None, vfio_user=None)
