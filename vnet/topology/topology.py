"""A topology as plain data: hosts, links, NTBs and devices. Read from TOML, checked once, never changed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from drivers.registry import TRANSPORTS
from vnet.errors import ConfigError
from vnet.names import NAME
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
    Problem,
    file_key,
)
from vnet.topology.structure import structure
from vnet.topology.support import unmediated

__all__ = ["DEFAULT", "Topology", "load", "parse", "parse_device", "read"]

FILE_MAX = 16 << 20
"""Largest topology file in bytes: the path may be a device that never ends."""
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

    def ends(self, device: DeviceSpec) -> tuple[str, str]:
        """Return the names of the driver's and the device's host.

        Within one host, the device's end is called HOST-dev; in another process, it is called by its socket.
        """
        if device.host is not None:
            return device.host, device.socket or f"{device.host}-dev"
        if device.ntb is not None:
            ntb = self.ntbs[device.ntb]
            return self.links[ntb.secondary].root, self.links[ntb.primary].root
        assert device.link is not None
        link = self.links[device.link]
        return link.root, link.endpoint

    def carried(self, link: str, function: int) -> DeviceSpec | None:
        """Return the device carried by a function at the end of a link, directly or by its NTB."""
        ntb = next((name for name, spec in self.ntbs.items() if link in (spec.primary, spec.secondary)), None)
        places = ((d, d.ntb == ntb if ntb else (d.link, d.function) == (link, function)) for d in self.devices.values())
        return next((device for device, matches in places if matches), None)

    def check(self, file: str) -> Topology:
        """Return the topology. Raises ConfigError for unknown names, invalid fields and resources used twice."""
        problem = next(self._problems(), None)
        if problem is not None:
            raise ConfigError(file, *problem)
        return self

    def _problems(self) -> Iterator[Problem]:
        """Yield path, value and reason of each problem. Only the first is reliable: checks build on each other."""
        yield from self._misnamed()
        for name, link in self.links.items():
            yield from self._link_problems(f"links.{name}", link)
        functions: dict[tuple[str | None, int], str] = {}
        for name, ntb in self.ntbs.items():
            yield from self._ntb_problems(f"ntbs.{name}", ntb)
            for key, link_name in (("primary", ntb.primary), ("secondary", ntb.secondary)):
                other = functions.setdefault((link_name, 0), f"ntb {name}")
                if other != f"ntb {name}":
                    yield f"ntbs.{name}.{key}", link_name, f"already used by {other}"
        clients: dict[str | None, str] = {}
        for name, device in self.devices.items():
            path = f"devices.{name}"
            yield from self._carrier_problems(path, device)
            other = functions.setdefault((device.link, device.function), name)
            if other != name and device.link is not None:
                yield f"{path}.function", device.function, f"already used by {other} on the same link"
            other = clients.setdefault(device.ntb, name)
            if other != name and device.ntb is not None:
                yield f"{path}.ntb", device.ntb, f"already used by {other}: an NTB carries one device"
            why = unmediated(device.type, device.transport) if device.mode == "mediated" else ""
            if why:
                yield f"{path}.mode", device.mode, f"must be direct: {why}"
            problem = device.problem()
            if problem is not None:
                yield f"{path}.{problem[0]}", *problem[1:]
        yield from self._claimed_twice()

    def sized(self) -> Topology:
        """Return the topology with default sizes of memory and windows filled in, as large as the drivers need."""
        ntbs = {
            name: attrs.evolve(ntb, mw=ntb.mw or _between(WINDOW, self._window_need(name)[1], WINDOW_MAX))
            for name, ntb in self.ntbs.items()
        }
        sized = attrs.evolve(self, ntbs=ntbs)
        needs = {name: _mebibytes(sum(sized._needs(name, foreign=True).values())) for name in self.hosts}
        hosts = {
            name: attrs.evolve(host, memory=host.memory or _between(MEMORY, needs[name], MEMORY_MAX))
            for name, host in self.hosts.items()
        }
        return attrs.evolve(sized, hosts=hosts)

    def check_sizes(self, file: str) -> Topology:
        """Return the topology. Raises ConfigError if a size is invalid, or too small for a driver to start."""
        for name, device in self.devices.items():
            short = device.shortage()
            if short is not None:
                raise ConfigError(file, f"devices.{name}.{short[0]}", *short[1:])
        for name, ntb in self.ntbs.items():
            device_name, need = self._window_need(name)
            assert ntb.mw is not None
            if need > ntb.mw:
                why = f"must be at least {need} MiB for the driver of {device_name}, and at most {WINDOW_MAX}"
                raise ConfigError(file, f"ntbs.{name}.mw", ntb.mw if need <= WINDOW_MAX else None, why)
        for name, host in self.hosts.items():
            needs = self._needs(name, foreign=False)
            need = _mebibytes(sum(needs.values()))
            assert host.memory is not None
            if need > host.memory:
                each = ", ".join(f"{of} {-(-size // MIB)}" for of, size in needs.items() if size)
                why = f"must be at least {need} MiB for the drivers ({each}), and at most {MEMORY_MAX}"
                raise ConfigError(file, f"hosts.{name}.memory", host.memory if need <= MEMORY_MAX else None, why)
        return self

    def _needs(self, host: str, *, foreign: bool) -> dict[str, int]:
        """Return the most memory of a host that drivers use, in bytes by device or NTB.

        The need for a device in another process depends on the features that it offers; only ``foreign`` counts it.
        """
        needs = {name: (ntb.mw or 0) * MIB for name, ntb in self.ntbs.items() if self.links[ntb.secondary].root == host}
        for name, device in self.devices.items():
            driver, endpoint = self.ends(device)
            if driver == host and device.ntb is None and (foreign or not device.foreign):
                needs[name] = device.memory()
            if endpoint == host and device.mode == "mediated" and isinstance(device, PeerSpec):
                needs[f"{name}'s local driver"] = device.local_memory()
        return needs

    def _window_need(self, ntb: str) -> tuple[str, int]:
        """Return the device on an NTB, and the window that its driver needs in MiB."""
        carried = ((name, _mebibytes(device.memory())) for name, device in self.devices.items() if device.ntb == ntb)
        return next(carried, ("", 0))

    def _misnamed(self) -> Iterator[Problem]:
        named = {"hosts": self.hosts, "links": self.links, "ntbs": self.ntbs, "devices": self.devices}
        for kind, names in named.items():
            for name in names:
                if not NAME.fullmatch(name):
                    yield kind, name, "must be a lower-case letter, then at most 31 lower-case letters, digits, - and _"

    def _link_problems(self, path: str, link: LinkSpec) -> Iterator[Problem]:
        for end in ("root", "endpoint"):
            if getattr(link, end) not in self.hosts:
                yield f"{path}.{end}", getattr(link, end), f"must be one of {', '.join(self.hosts)}"
        if link.root == link.endpoint:
            yield f"{path}.endpoint", link.endpoint, "must differ from root"
        clash = link.faults.clash() if link.faults is not None else None
        if clash is not None:
            yield f"{path}.faults.{clash[0]}", *clash[1:]

    def _ntb_problems(self, path: str, ntb: NtbSpec) -> Iterator[Problem]:
        """Yield the problems of an NTB: its links must end at its host and start at two others; its window must fit."""
        for end in ("primary", "secondary"):
            link = self.links.get(getattr(ntb, end))
            if link is None or link.endpoint != ntb.host:
                ours = ", ".join(at for at, spec in self.links.items() if spec.endpoint == ntb.host)
                yield (
                    f"{path}.{end}",
                    getattr(ntb, end),
                    f"must be a link whose endpoint is {ntb.host}: {ours or 'there is none'}",
                )
        driver = self.links[ntb.secondary].root
        if self.links[ntb.primary].root == driver:
            why = f"must be a link from another host than primary: both start at {driver}"
            yield f"{path}.secondary", ntb.secondary, why
        memory = self.hosts[driver].memory or MEMORY
        if ntb.mw is not None and ntb.mw >= memory:
            why = f"must be below {memory}: the window is part of the memory of host {driver}"
            yield f"{path}.mw", ntb.mw, why

    def _carrier_problems(self, path: str, device: DeviceSpec) -> Iterator[Problem]:
        """Yield the problems of a device's carrier and transport options."""
        carriers: Mapping[str, Mapping[str, object]] = {"link": self.links, "host": self.hosts, "ntb": self.ntbs}
        transport = TRANSPORTS[device.transport]
        for key, known in carriers.items():
            given = getattr(device, key)
            if key != transport.on and given is not None:
                yield (
                    f"{path}.{key}",
                    given,
                    f"must be absent: transport {device.transport} needs the key {transport.on}",
                )
            if key == transport.on and given not in known:
                yield (
                    f"{path}.{key}",
                    given,
                    f"must be one of {', '.join(known)}" if known else f"must be a {key}, and there is none",
                )
        field, queues = device.queue_count
        if transport.queues is not None and queues > transport.queues:
            why = f"must be less: it takes {queues} queues, and transport {device.transport} carries {transport.queues}"
            yield f"{path}.{field}", getattr(device, field), why
        allowed = {*transport.options, *(["function"] if transport.on == "link" else [])}
        fields = [field for field in attrs.fields(type(device)) if field.metadata.get("transport")]
        given_of = {field.name: getattr(device, field.name) for field in fields}
        defaults = {field.name: field.default for field in fields}
        for key, given in {**given_of, **dict(device.extra)}.items():
            if key not in allowed and given != defaults.get(key):
                yield f"{path}.{key}", given, f"must be absent for transport {device.transport}"
        if device.peer_uid is not None and not device.foreign:
            yield f"{path}.peer_uid", device.peer_uid, "must be absent without socket"
        standard = type(device)(type=device.type)
        if device.foreign and getattr(device, "device", None) != getattr(standard, "device", None):
            why = "must be absent with socket: the device belongs to another process"
            yield f"{path}.device", None, why

    def _claimed_twice(self) -> Iterator[Problem]:
        """Yield the interfaces, files and sockets that two parts of the system would use."""
        taken: dict[tuple[str, ...], str] = {}
        traces = (
            (f"links.{name}", "trace", ("file", file_key(link.trace)))
            for name, link in self.links.items()
            if link.trace
        )
        claims = (
            (f"devices.{name}", *claim)
            for name, device in self.devices.items()
            for claim in device.claims(self.ends(device))
        )
        for path, field, resource in (*traces, *claims):
            where = f"{path}.{field}"
            other = taken.setdefault(resource, where)
            if other != where:
                scope = " in the same namespace" if resource[0] == "interface" else ""
                yield where, resource[-1], f"already used by {other.rpartition('.')[0]}{scope}"


def _between(least: int, need: int, most: int) -> int:
    return min(max(least, need), most)


def _mebibytes(size: int) -> int:
    """Return the MiB that hold ``size`` bytes of buffers and rings, and `OTHER_MEMORY`; 0 for 0."""
    return -(-(size + OTHER_MEMORY) // MIB) if size else 0


def parse(text: str, file: str = "topology") -> Topology:
    """Return the topology in a TOML text. Raises ConfigError: one line about the first problem."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(file, "", None, f"not valid TOML: {exc}") from None
    except RecursionError:
        raise ConfigError(file, "", None, "not valid TOML: nested too deeply") from None
    return structure({"links": {}} | raw, Topology, file).check(file).sized().check_sizes(file)


def parse_device(keys: Mapping[str, Any], file: str) -> DeviceSpec:
    """Return a device outside any topology from its ``keys``. Raises ConfigError."""
    device: DeviceSpec = structure(keys, DeviceSpec, file)
    problem = device.problem() or device.shortage()
    if problem is not None:
        raise ConfigError(file, *problem)
    return device


def load(path: Path) -> Topology:
    """Return the topology in a file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return read(file, str(path))
    except OSError as exc:
        raise ConfigError(str(path), "", None, exc.strerror or str(exc)) from None


def read(stream: BinaryIO, file: str) -> Topology:
    """Return the topology in an open file; errors call it ``file``. Raises ConfigError, OSError."""
    text = stream.read(FILE_MAX + 1)
    if len(text) > FILE_MAX:
        raise ConfigError(file, "", None, f"must be at most {FILE_MAX >> 20} MiB long")
    try:
        return parse(text.decode(), file)
    except UnicodeDecodeError:
        raise ConfigError(file, "", None, "must be UTF-8 text") from None


DEFAULT = """\
# Two hosts, one PCI Express link, one network device: virtio-net on rc, vhost-net on ep.
[hosts.rc]
[hosts.ep]

[links.pcie0]
root = "rc"
endpoint = "ep"

[devices.net0]
type = "net"
transport = "pci"
link = "pcie0"
driver = { kind = "tun", addresses = ["198.18.0.1/24", "2001:2::1/64"] }
device = { kind = "tun", addresses = ["198.18.0.2/24", "2001:2::2/64"] }
"""
"""The topology of `vnet up` without a file, in TOML."""
