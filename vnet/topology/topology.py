"""What to build, as plain data: hosts, links, devices and their ports. Read from TOML, checked once, never changed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from drivers.registry import TRANSPORTS
from vnet.errors import ConfigError
from vnet.spec import (
    MEMORY,
    MEMORY_MAX,
    MIB,
    NAME,
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
"""Bytes of the longest topology file; more is another file, or a device without an end."""
OTHER_MEMORY = MIB // 2
"""Bytes besides the needs of drivers: what a transport's device half allocates, and the remains of alignment."""


@attrs.frozen
class Topology:
    """Everything there is."""

    hosts: Mapping[str, HostSpec]
    links: Mapping[str, LinkSpec]
    devices: Mapping[str, DeviceSpec]
    ntbs: Mapping[str, NtbSpec] = attrs.field(factory=dict)

    def namespaces(self, system: str) -> Iterator[Netns]:
        """What all ports need in the system of that name."""
        for device in self.devices.values():
            yield from device.namespaces(system, self.ends(device))

    def host_netns(self, system: str, host: str) -> str | None:
        """The namespace of a host's first port that has one."""
        return next((netns.name for netns in self.namespaces(system) if netns.host == host), None)

    def own_netns(self, system: str) -> tuple[str, ...]:
        """The namespaces that are made with the system, and removed with it."""
        return tuple(sorted({netns.name for netns in self.namespaces(system) if netns.own}))

    def ends(self, device: DeviceSpec) -> tuple[str, str]:
        """The names of the driver's and of the device's host; where both are on one, the device's end is NAME-dev,
        and where that is another program's, its socket.
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
        """The device behind a function at the end of a link, be it that function or what joins two links."""
        ntb = next((name for name, spec in self.ntbs.items() if link in (spec.primary, spec.secondary)), None)
        places = ((d, d.ntb == ntb if ntb else (d.link, d.function) == (link, function)) for d in self.devices.values())
        return next((device for device, here in places if here), None)

    def check(self, file: str) -> Topology:
        """Raise ConfigError if one part names another that is not there, or two claim the same."""
        problem = next(self._problems(), None)
        if problem is not None:
            raise ConfigError(file, *problem)
        return self

    def _problems(self) -> Iterator[Problem]:
        """Place, value and reason of everything wrong; each presumes that what came before is right."""
        yield from self._misnamed()
        for name, link in self.links.items():
            yield from self._link_problems(f"links.{name}", link)
        places: dict[tuple[str | None, int], str] = {}
        for name, ntb in self.ntbs.items():
            yield from self._ntb_problems(f"ntbs.{name}", ntb)
            for link_name in (ntb.primary, ntb.secondary):
                other = places.setdefault((link_name, 0), f"ntb {name}")
                if other != f"ntb {name}":
                    yield f"ntbs.{name}", link_name, f"{other} has the link already"
        clients: dict[str | None, str] = {}
        for name, device in self.devices.items():
            path = f"devices.{name}"
            yield from self._carrier_problems(path, device)
            other = places.setdefault((device.link, device.function), name)
            if other != name and device.link is not None:
                yield f"{path}.function", device.function, f"{other} has it on the same link"
            other = clients.setdefault(device.ntb, name)
            if other != name and device.ntb is not None:
                yield f"{path}.ntb", device.ntb, f"{other} has it already: an NTB carries one device"
            why = unmediated(device.type, device.transport) if device.mode == "mediated" else ""
            if why:
                yield f"{path}.mode", device.mode, why
            problem = device.problem()
            if problem is not None:
                yield f"{path}.{problem[0]}", *problem[1:]
        yield from self._claimed_twice()

    def sized(self) -> Topology:
        """The same topology with the sizes of memory that it leaves open filled in: as much as its drivers need."""
        ntbs = {
            name: attrs.evolve(ntb, mw=ntb.mw or _between(WINDOW, self._window_need(name)[1], WINDOW_MAX))
            for name, ntb in self.ntbs.items()
        }
        found = attrs.evolve(self, ntbs=ntbs)
        needs = {name: _mebibytes(sum(found._needs(name, foreign=True).values())) for name in self.hosts}
        hosts = {
            name: attrs.evolve(host, memory=host.memory or _between(MEMORY, needs[name], MEMORY_MAX))
            for name, host in self.hosts.items()
        }
        return attrs.evolve(found, hosts=hosts)

    def check_sizes(self, file: str) -> Topology:
        """Raise ConfigError if a size, filled in by `sized`, is too small or too large for the drivers to come up."""
        for name, device in self.devices.items():
            short = device.shortage()
            if short is not None:
                raise ConfigError(file, f"devices.{name}.{short[0]}", *short[1:])
        for name, ntb in self.ntbs.items():
            device_name, need = self._window_need(name)
            assert ntb.mw is not None
            if need > ntb.mw:
                why = f"the driver of {device_name} needs {need} MiB, and a window has {WINDOW_MAX} at most"
                raise ConfigError(file, f"ntbs.{name}.mw", ntb.mw if need <= WINDOW_MAX else None, why)
        for name, host in self.hosts.items():
            needs = self._needs(name, foreign=False)
            need = _mebibytes(sum(needs.values()))
            assert host.memory is not None
            if need > host.memory:
                each = ", ".join(f"{of} {-(-size // MIB)}" for of, size in needs.items() if size)
                why = f"the drivers of its devices need {need} MiB ({each}), and a host has {MEMORY_MAX} at most"
                raise ConfigError(file, f"hosts.{name}.memory", host.memory if need <= MEMORY_MAX else None, why)
        return self

    def _needs(self, host: str, *, foreign: bool) -> dict[str, int]:
        """Bytes of a host's memory that drivers use at most, by device or NTB.

        How much a driver needs for a device of another program depends on what that offers; with ``foreign`` it counts.
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
        """The device that an NTB carries, and the MiB of the window that its driver needs."""
        carried = ((name, _mebibytes(device.memory())) for name, device in self.devices.items() if device.ntb == ntb)
        return next(carried, ("", 0))

    def _misnamed(self) -> Iterator[Problem]:
        named = {"hosts": self.hosts, "links": self.links, "ntbs": self.ntbs, "devices": self.devices}
        for kind, names in named.items():
            for name in names:
                if not NAME.fullmatch(name):
                    yield kind, name, "names are lower-case letters, digits, - and _"

    def _link_problems(self, path: str, link: LinkSpec) -> Iterator[Problem]:
        for end in ("root", "endpoint"):
            if getattr(link, end) not in self.hosts:
                yield f"{path}.{end}", getattr(link, end), f"hosts are {', '.join(self.hosts)}"
        if link.root == link.endpoint:
            yield path, link.root, "a link joins two different hosts"
        clash = link.faults.clash() if link.faults is not None else None
        if clash is not None:
            yield f"{path}.faults.{clash[0]}", *clash[1:]

    def _ntb_problems(self, path: str, ntb: NtbSpec) -> Iterator[Problem]:
        """Two links that end at one host, from two others, the second of which has memory for the window."""
        for end in ("primary", "secondary"):
            link = self.links.get(getattr(ntb, end))
            if link is None or link.endpoint != ntb.host:
                ours = ", ".join(at for at, spec in self.links.items() if spec.endpoint == ntb.host)
                yield f"{path}.{end}", getattr(ntb, end), f"links whose endpoint is {ntb.host} are {ours or 'none'}"
        driver = self.links[ntb.secondary].root
        if self.links[ntb.primary].root == driver:
            yield path, driver, "an NTB joins two different hosts"
        memory = self.hosts[driver].memory or MEMORY
        if ntb.mw is not None and ntb.mw >= memory:
            why = f"host {driver} has {memory} MiB of memory, and the window is a part of it"
            yield f"{path}.mw", ntb.mw, why

    def _carrier_problems(self, path: str, device: DeviceSpec) -> Iterator[Problem]:
        """The transport names the key of what carries the device; that key must be there, and no other."""
        carriers: Mapping[str, Mapping[str, object]] = {"link": self.links, "host": self.hosts, "ntb": self.ntbs}
        transport = TRANSPORTS[device.transport]
        for key, known in carriers.items():
            given = getattr(device, key)
            if key != transport.on and given is not None:
                yield f"{path}.{key}", given, f"transport {device.transport} is carried by a {transport.on}"
            if key == transport.on and given not in known:
                yield f"{path}.{key}", given, f"it must be one of {', '.join(known) or 'none: there is none'}"
        field, queues = device.queue_count
        if transport.queues is not None and queues > transport.queues:
            why = f"that takes {queues} queues, and transport {device.transport} carries {transport.queues} at most"
            yield f"{path}.{field}", getattr(device, field), why
        allowed = {*transport.options, *(["function"] if transport.on == "link" else [])}
        fields = [field for field in attrs.fields(type(device)) if field.metadata.get("transport")]
        given_of = {field.name: getattr(device, field.name) for field in fields}
        usual = {field.name: field.default for field in fields}
        for key, given in {**given_of, **dict(device.extra)}.items():
            if key not in allowed and given != usual.get(key):
                yield f"{path}.{key}", given, f"transport {device.transport} has no such setting"
        if device.peer_uid is not None and not device.foreign:
            yield f"{path}.peer_uid", device.peer_uid, "without a socket there is no other program"
        standard = type(device)(type=device.type)
        if device.foreign and getattr(device, "device", None) != getattr(standard, "device", None):
            why = "nothing can be said of it here: with a socket the device is another program's"
            yield f"{path}.device", None, why

    def _claimed_twice(self) -> Iterator[Problem]:
        """Interfaces, files and sockets that two parts of the system would both use."""
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
        for path, field, thing in (*traces, *claims):
            where = f"{path}.{field}"
            other = taken.setdefault(thing, where)
            if other != where:
                scope = "in the same namespace" if thing[0] == "interface" else "already"
                yield where, thing[-1], f"{other.rpartition('.')[0]} has it {scope}"


def _between(least: int, need: int, most: int) -> int:
    return min(max(least, need), most)


def _mebibytes(size: int) -> int:
    """MiB that hold ``size`` bytes of buffers and rings, and what else a driver or a transport allocates."""
    return -(-(size + OTHER_MEMORY) // MIB) if size else 0


def parse(text: str, file: str = "topology") -> Topology:
    """A topology from TOML text. Raises ConfigError, which names the first thing wrong in one line."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(file, "", None, f"not valid TOML: {exc}") from None
    except RecursionError:
        raise ConfigError(file, "", None, "not valid TOML: nested too deeply") from None
    return structure({"links": {}} | raw, Topology, file).check(file).sized().check_sizes(file)


def parse_device(keys: Mapping[str, Any], file: str) -> DeviceSpec:
    """A device that is in no topology, of the keys it would have there. Raises ConfigError."""
    device: DeviceSpec = structure(keys, DeviceSpec, file)
    problem = device.problem() or device.shortage()
    if problem is not None:
        raise ConfigError(file, *problem)
    return device


def load(path: Path) -> Topology:
    """A topology from a file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return read(file, str(path))
    except OSError as exc:
        raise ConfigError(str(path), "", None, exc.strerror or str(exc)) from None


def read(stream: BinaryIO, file: str) -> Topology:
    """A topology from an open file, which errors call ``file``. Raises ConfigError, OSError."""
    text = stream.read(FILE_MAX + 1)
    if len(text) > FILE_MAX:
        raise ConfigError(file, "", None, f"longer than {FILE_MAX >> 20} MiB")
    try:
        return parse(text.decode(), file)
    except UnicodeDecodeError:
        raise ConfigError(file, "", None, "not UTF-8 text") from None


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
