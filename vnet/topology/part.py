"""The part of a topology on one host, whose links lead to the other hosts in other processes."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from vnet.errors import ConfigError, FieldError
from vnet.spec import DeviceSpec, FaultSpec, LinkSpec, RemoteEnd
from vnet.topology.topology import Topology

__all__ = ["part_of"]


def part_of(topology: Topology, host: str, file: str) -> Topology:
    """Return the part of a topology on ``host``: the host, its links, and the devices with a side on it.

    Raises ConfigError if there is no such host, or if a link of it cannot lead to another process.
    """
    if host not in topology.hosts:
        raise ConfigError(file, "--only", host, f"must be one of {', '.join(topology.hosts)}")
    mine = {name: link for name, link in topology.links.items() if host in link.ends}
    errors = list(_problems(topology, host, mine))
    if errors:
        raise ConfigError.of(file, errors)
    links = {name: _cut(link, host) for name, link in mine.items()}
    devices = {name: device for name, device in topology.devices.items() if device.link in links or device.host == host}
    ntbs = {name: ntb for name, ntb in topology.ntbs.items() if ntb.host == host}
    part = Topology({host: topology.hosts[host]}, links, devices, ntbs)
    return part.sided()


def _problems(topology: Topology, host: str, mine: dict[str, LinkSpec]) -> Iterator[FieldError]:
    for name, link in mine.items():
        if link.vfio_user is None and isinstance(link.root, str) and isinstance(link.endpoint, str):
            yield FieldError(("links", name, "vfio_user"), None, "must be given: each host is a process of its own")
    for name, device in topology.devices.items():
        if _crosses_ntb(topology, device, host):
            why = "must be absent: memory windows of an NTB do not lead to another process"
            yield FieldError(("devices", name, "ntb"), device.ntb, why)


def _crosses_ntb(topology: Topology, device: DeviceSpec, host: str) -> bool:
    """Return whether the device is on an NTB that the host has an end or the middle of."""
    if device.ntb is None:
        return False
    return host in (topology.ntbs[device.ntb].host, *topology.ends(device))


def _cut(link: LinkSpec, host: str) -> LinkSpec:
    """Return the host's part of a link: accesses take time, fail and are traced in the endpoint's process."""
    if link.vfio_user is None:  # it leads to another process anyway
        return link
    end = RemoteEnd(link.vfio_user)
    if link.endpoint == host:
        return attrs.evolve(link, root=end, vfio_user=None)
    return LinkSpec(host, end, lossy=link.faults is not None and link.faults != FaultSpec(seed=link.faults.seed))
