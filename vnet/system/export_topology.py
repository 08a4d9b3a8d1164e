"""The topology of a system whose devices are served to drivers in other processes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from vnet.names import NAME_MAX
from vnet.spec import DeviceSpec, HostSpec, LinkSpec, Netns
from vnet.topology import Topology

__all__ = ["CLIENT", "HOST", "DeviceExport", "ExportTopology", "export_topology", "system_name"]

HOST = "serve"
"""Name of the host of served devices: this process."""
FRONT_END, CLIENT = "frontend", "client"
"""Names of the drivers' hosts, by protocol."""


def system_name(kind: str, socket: Path) -> str:
    """Return the default name of a system that serves a device or a function, made from its type and its socket."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", socket.stem.lower()).strip("-")
    parts = (HOST, re.sub(r"[^a-z0-9_-]+", "-", kind.lower()), *((stem,) if stem not in ("", kind) else ()))
    return "-".join(parts)[:NAME_MAX]


@attrs.frozen
class DeviceExport:
    """A device to serve."""

    spec: DeviceSpec
    socket: Path
    """Path of the unix socket."""
    connect: bool = False
    """Whether the front end listens at the socket and we connect to it, again and again."""
    peer_uid: int | None = None
    """With ``connect``: user id, besides our own and root, whose front end may listen there."""
    vfio_user: bool = False
    """Whether the device is a PCI function for vfio-user clients, instead of a vhost-user back end."""

    @property
    def peer(self) -> str:
        """Name of the other process in messages."""
        return "client" if self.vfio_user else "front end"

    @property
    def name(self) -> str:
        """Default name of its system."""
        return system_name(self.spec.type, self.socket)

    @property
    def protocol(self) -> str:
        return "vfio-user" if self.vfio_user else "vhost-user"


@attrs.frozen
class ExportTopology(Topology):
    """A topology whose drivers are in other processes."""

    listens: tuple[Path, ...] = ()
    """Sockets at which this process listens."""

    def namespaces(self, system: str) -> Iterator[Netns]:
        """Yield the namespaces that a port names. Another port is in that of the process."""
        return (netns for netns in super().namespaces(system) if netns.host == HOST and not netns.own)

    def paths(self) -> Iterator[Path]:
        yield from super().paths()
        yield from self.listens

    def ends(self, device: DeviceSpec) -> tuple[str, str]:
        return FRONT_END if device.link is None else str(self.links[device.link].root), HOST


def export_topology(exports: Mapping[str, DeviceExport]) -> ExportTopology:
    """Return the topology of served devices: each function is behind a link of its own."""
    links: dict[str, LinkSpec] = {}
    devices: dict[str, DeviceSpec] = {}
    for name, export in exports.items():
        if export.vfio_user:
            link = f"pcie{len(links)}"
            client = CLIENT if not links else f"{CLIENT}{len(links) + 1}"
            links[link] = LinkSpec(client, HOST)
            devices[name] = attrs.evolve(export.spec, link=link, host=None, elsewhere="driver")
        else:
            spec = attrs.evolve(export.spec, transport="vhost_user", link=None, host=HOST)
            devices[name] = attrs.evolve(spec, elsewhere="driver")
    sockets = tuple(export.socket for export in exports.values() if not export.connect)
    return ExportTopology({HOST: HostSpec(memory=1)}, links, devices, listens=sockets)
