"""Joins a topology of new parts with that of a running system."""

from __future__ import annotations

from collections.abc import Container, Iterator

import attrs

from vnet.errors import ConfigError, FieldError
from vnet.topology.checks import problems
from vnet.topology.topology import Topology

__all__ = ["FILE", "NOTHING", "TABLES", "clashes", "join", "keys_of", "select", "union", "without"]

FILE = "topology"
"""Name in errors of a topology that is no file."""
NOTHING = Topology({}, {}, {})
"""The topology of a system without parts."""
TABLES = tuple(field.name for field in attrs.fields(Topology))


def join(running: Topology, new: Topology, file: str = FILE) -> tuple[Topology, Topology]:
    """Return the topology of a running system with ``new`` parts, and these parts with their sizes filled in.

    New parts may refer to running ones. Raises ConfigError, with all problems, in a ``file``.
    """
    errors = list(clashes(running, new))
    if not errors:
        whole = union(running, new)
        errors = list(problems(whole, {table: getattr(whole, table) for table in TABLES}))
    if errors:
        raise ConfigError.of(file, errors)
    whole = whole.sided().sized()
    return whole, select(whole, keys_of(new))


def keys_of(topology: Topology) -> set[tuple[str, str]]:
    """Return the table and the name of each part."""
    return {(table, name) for table in TABLES for name in getattr(topology, table)}


def select(topology: Topology, keys: Container[tuple[str, str]]) -> Topology:
    """Return the parts of a topology with these tables and names."""
    return Topology(
        **{
            table: {name: each for name, each in getattr(topology, table).items() if (table, name) in keys}
            for table in TABLES
        }
    )


def without(topology: Topology, parts: Topology) -> Topology:
    """Return a topology without some of its parts."""
    return select(topology, keys_of(topology) - keys_of(parts))


def union(running: Topology, new: Topology) -> Topology:
    """Return a topology with the parts of both."""
    return Topology(**{table: {**getattr(running, table), **getattr(new, table)} for table in TABLES})


def clashes(running: Topology, new: Topology) -> Iterator[FieldError]:
    """Yield the new parts that a running system can't take: names that it has, and functions in other processes."""
    for table in TABLES:
        for name in getattr(new, table):
            if name in getattr(running, table):
                yield FieldError((table, name), None, "must be a new name: the system has it already")
    for name, device in new.devices.items():
        link = running.links.get(device.link or "")
        if link is not None and link.remote:
            why = "must be a new link: this one leads to another process, so its functions do not change"
            yield FieldError(("devices", name, "link"), device.link, why)
