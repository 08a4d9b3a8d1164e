"""Sample topologies: one device of any type over any transport, with the hosts and links that it needs."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.topology.reader import parse
from vnet.topology.topology import Topology
from vnet.transports import TRANSPORTS

__all__ = ["built_in", "built_in_text"]

LINK = """
[links.{name}]
root = "{root}"
endpoint = "{endpoint}"
{keys}
"""
NTB = """
[ntbs.ntb0]
host = "soc"
primary = "pcie0"
secondary = "pcie1"
"""
DEVICE = """
[devices.{name}]
type = "{kind}"
transport = "{transport}"
{on} = "{place}"
mode = "{mode}"
"""

CARRIERS: Mapping[str, tuple[str, tuple[str, ...], tuple[tuple[str, str, str], ...], str]] = {
    "link": ("pcie0", ("rc", "ep"), (("pcie0", "rc", "ep"),), ""),
    "ntb": ("ntb0", ("host1", "soc", "host2"), (("pcie0", "host1", "soc"), ("pcie1", "host2", "soc")), NTB),
    "host": ("box", ("box",), (), ""),
}
"""(carrier, hosts, links as (name, root, endpoint), other tables) by `drivers.carriers.transport.Transport.on`."""


def built_in(
    kind: str, transport: str = "pci", keys: str = "", *, mode: str = "direct", link: str = "", name: str = ""
) -> Topology:
    """Return a topology with one device of type ``kind``. Raises ConfigError.

    ``keys`` are more lines of TOML for the device, ``link`` lines for every link; ``name`` is the device's name, by
    default the type and 0.
    """
    return parse(built_in_text(kind, transport, keys, mode=mode, link=link, name=name), "built-in topology")


def built_in_text(
    kind: str, transport: str = "pci", keys: str = "", *, mode: str = "direct", link: str = "", name: str = ""
) -> str:
    """Return the text of the topology that `built_in` returns."""
    on = TRANSPORTS[transport].on if transport in TRANSPORTS else "link"  # `parse` reports an unknown transport
    place, hosts, links, rest = CARRIERS[on]
    joined = (LINK.format(name=at, root=root, endpoint=endpoint, keys=link) for at, root, endpoint in links)
    device = DEVICE.format(name=name or f"{kind}0", kind=kind, transport=transport, on=on, place=place, mode=mode)
    return "".join(f"[hosts.{host}]\n" for host in hosts) + "".join(joined) + rest + device + keys + "\n"
