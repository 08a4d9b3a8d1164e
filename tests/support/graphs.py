"""Graphs of all examples, and of topologies with many links."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from support.paths import ROOT
from vnet.graph.build import of_topology
from vnet.graph.model import Graph
from vnet.topology import Topology, load, parse

__all__ = ["EXAMPLES", "GRAPHS", "LINKS", "mesh", "star"]

EXAMPLES = sorted((ROOT / "examples" / "topologies").glob("*.toml"))

LINKS = 50
"""Links of each of these topologies."""


def star() -> Topology:
    """Return one root complex with all links."""
    return _many([("rc", f"ep{at}") for at in range(LINKS)])


def mesh(seed: int = 3) -> Topology:
    """Return 16 hosts that links join by random."""
    dice, hosts = Random(seed), [f"h{at}" for at in range(16)]
    return _many([(a, b) for a, b in (dice.sample(hosts, 2) for _ in range(LINKS))])


def _many(pairs: list[tuple[str, str]]) -> Topology:
    """Return a topology with a link and a disk for each pair of a root complex and an endpoint."""
    hosts = "".join(f"[hosts.{name}]\n" for name in dict.fromkeys(name for pair in pairs for name in pair))
    links = "".join(
        f'[links.pcie{at}]\nroot = "{root}"\nendpoint = "{end}"\n'
        f'[devices.disk{at}]\ntype = "blk"\nlink = "pcie{at}"\ndriver = {{ buffers = 1 }}\n'
        for at, (root, end) in enumerate(pairs)
    )
    return parse(hosts + links, "many.toml")


GRAPHS: Mapping[str, Graph] = {
    **{path.stem: of_topology(path.name, load(path)) for path in EXAMPLES},
    "star": of_topology("star", star()),
    "mesh": of_topology("mesh", mesh()),
}
"""Graphs by name of the example or of the function."""
