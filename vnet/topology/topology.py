"""A topology as plain data: hosts, links, NTBs and devices, and the sizes that they need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from vnet.process_ends import ProcessEnd, RemoteEnd, function_socket
from vnet.spec import (
    MEMORY,
    MEMORY_MAX,
    MIB,
    WINDOW,
    WINDOW_MAX,
    DeviceSpec,
    HostSpec,
    LinkSpec,
    Netns,
    NtbSpec,
    PeerSpec,
)

__all__ = ["Topology", "mebibytes"]

OTHER_MEMORY = MIB // 2
"""Bytes added to the needs of drivers: allocations of a transport's device half, and alignment."""


@attrs.frozen
class Topology:
    """The hosts, links, devices and NTBs of a system."""

    hosts: Mapping[str, HostSpec]
    """Hosts by name: tables [hosts.NAME]."""
    links: Mapping[str, LinkSpec]
    """PCI Express links by name: tables [links.NAME]. Default: none."""
    devices: Mapping[str, DeviceSpec]
    """Virtio devices by name: tables [devices.NAME]."""
    ntbs: Mapping[str, NtbSpec] = attrs.field(factory=dict)
    """Non-transparent bridges by name: tables [ntbs.NAME]. Default: none."""

    def namespaces(self, system: str) -> Iterator[Netns]:
        """Yield the namespaces of all ports in the system of that name."""
        for device in self.devices.values():
            yield from device.namespaces(system, self.ends(device))

    def host_netns(self, system: str, host: str) -> str | None:
        """Return the namespace of a host's first port that has one, else None."""
        return next((netns.name for netns in self.namespaces(system) if netns.host == host), None)

    def own_netns(self, system: str) -> tuple[str, ...]:
        """Return the names of namespaces that are made and removed with the system."""
        return tuple(sorted({netns.name for netns in self.namespaces(system) if netns.own}))

    def paths(self) -> Iterator[Path]:
        """Yield the paths of sockets and terminals that the system makes."""
        for device in self.devices.values():
            yield from device.paths()

    def ends(self, device: DeviceSpec) -> tuple[str, str]:
        """Return the names of the driver's and the device's host.

        Within one host, the device's end is called HOST-dev; in another process, an end is called by its socket.
        """
        if device.host is not None:
            return device.host, device.socket or f"{device.host}-dev"
        if device.ntb is not None:
            ntb = self.ntbs[device.ntb]
            return self.links[ntb.secondary].ends[0], self.links[ntb.primary].ends[0]
        assert device.link is not None
        return self.links[device.link].ends

    def carried(self, link: str, function: int) -> tuple[str, DeviceSpec] | None:
        """Return name and record of the device carried by a function at the end of a link, directly or by its NTB."""
        ntb = next((name for name, spec in self.ntbs.items() if link in (spec.primary, spec.secondary)), None)
        for name, device in self.devices.items():
            if device.ntb == ntb if ntb else (device.link, device.function) == (link, function):
                return name, device
        return None

    def functions(self, link: str) -> tuple[int, ...]:
        """Return the numbers of the functions at the end of a link, by its devices and NTBs; function 0 without any."""
        numbers = {device.function for device in self.devices.values() if device.link == link}
        if any(link in (ntb.primary, ntb.secondary) for ntb in self.ntbs.values()):
            numbers.add(0)
        return tuple(sorted(numbers)) or (0,)

    def sockets(self) -> Iterator[tuple[str, str]]:
        """Yield each link whose root complex is another process, with the path of each of its sockets."""
        for name, link in self.links.items():
            if isinstance(link.root, RemoteEnd):
                for function in self.functions(name):
                    yield name, function_socket(link.root.vfio_user, function)

    def sided(self) -> Topology:
        """Return the topology whose devices know which of their sides is in another process."""
        return attrs.evolve(self, devices={name: self._sided(device) for name, device in self.devices.items()})

    def _sided(self, device: DeviceSpec) -> DeviceSpec:
        link = self.links.get(device.link or "")
        if link is not None and isinstance(link.root, ProcessEnd):
            return attrs.evolve(device, elsewhere="driver")
        if link is not None and isinstance(link.endpoint, ProcessEnd):
            return attrs.evolve(device, elsewhere="device", mode="direct")
        return device

    def sized(self) -> Topology:
        """Return the topology with default sizes of memory and windows filled in, as large as the drivers need."""
        windows = {name: need for name, (_, need) in self.windows().items()}
        ntbs = {
            name: attrs.evolve(ntb, mw=ntb.mw or _between(WINDOW, windows.get(name, 0), WINDOW_MAX))
            for name, ntb in self.ntbs.items()
        }
        sized = attrs.evolve(self, ntbs=ntbs)
        needs = sized.needs(foreign=True)
        hosts = {
            name: attrs.evolve(host, memory=host.memory or _between(MEMORY, mebibytes(needs[name]), MEMORY_MAX))
            for name, host in self.hosts.items()
        }
        return attrs.evolve(sized, hosts=hosts)

    def needs(self, *, foreign: bool) -> dict[str, dict[str, int]]:
        """Return the most memory that drivers use, in bytes by host and then by device or NTB.

        The need for a device in another process depends on the features that it offers; only ``foreign`` counts it.
        """
        needs: dict[str, dict[str, int]] = defaultdict(dict)
        for name, ntb in self.ntbs.items():
            needs[str(self.links[ntb.secondary].root)][name] = (ntb.mw or 0) * MIB
        for name, device in self.devices.items():
            driver, endpoint = self.ends(device)
            if device.ntb is None and (foreign or not device.foreign):
                needs[driver][name] = device.memory()
            if device.mode == "mediated" and isinstance(device, PeerSpec):
                needs[endpoint][f"{name}'s local driver"] = device.local_memory()
        return needs

    def windows(self) -> dict[str, tuple[str, int]]:
        """Return by NTB the device on it, and the window that its driver needs in MiB."""
        carried = {device.ntb: name for name, device in self.devices.items()}
        return {
            ntb: (name, mebibytes({name: self.devices[name].memory()}))
            for ntb, name in carried.items()
            if ntb is not None
        }


def _between(least: int, need: int, most: int) -> int:
    return min(max(least, need), most)


def mebibytes(needs: Mapping[str, int]) -> int:
    """Return the MiB that hold buffers and rings of ``needs`` bytes, and `OTHER_MEMORY`; 0 if these are 0."""
    size = sum(needs.values())
    return -(-(size + OTHER_MEMORY) // MIB) if size else 0
