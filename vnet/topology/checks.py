"""Checks of a topology: names that refer to nothing, fields that exclude each other, resources used twice, sizes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import attrs

from vnet.errors import ConfigError, FieldError, Keys, dotted
from vnet.link.tlp import TIMING_KEYS
from vnet.names import NAME, NAME_RULE
from vnet.process_ends import ProcessEnd, RemoteEnd
from vnet.spec import MEMORY, MEMORY_MAX, MIB, WINDOW_MAX, DeviceSpec, LinkSpec, NtbSpec, file_key
from vnet.topology.support import unmediated
from vnet.topology.topology import Topology, mebibytes
from vnet.transports import CARRIERS, TRANSPORTS

__all__ = ["Names", "check", "problems"]

Names = Mapping[str, Collection[str]]
"""Names of records by table."""
BUSES = 255
"""Buses of a PCI domain, besides bus 0 of the root complex itself."""
NAMES_SHOWN = 20
"""Most names that one message lists."""


def check(topology: Topology, file: str) -> Topology:
    """Return the topology. Raises ConfigError for unknown names, invalid fields and resources used twice."""
    named = {field.name: getattr(topology, field.name) for field in attrs.fields(Topology)}
    errors = list(problems(topology, named, sizes=False))
    if errors:
        raise ConfigError.of(file, errors)
    return topology


def problems(
    topology: Topology, named: Names, incomplete: Collection[Keys] = (), *, sizes: bool = True
) -> Iterator[FieldError]:
    """Yield all problems of the topology in a file; ``sizes`` also with which a driver can't start.

    ``named`` has all names in the file. ``topology`` lacks the invalid records among them, to which others may refer.
    ``incomplete`` records have only the keys that refer to other records, so that only these are checked.
    """
    faulty = set(incomplete)
    for errors in (
        _names(named),
        _links(topology, named),
        _ntbs(topology, named),
        _devices(topology, named, incomplete),
    ):
        for error in errors:
            faulty.add(error.keys[:2])
            yield error
    whole = _whole(topology, faulty).sided()
    yield from _claimed_twice(whole)
    if sizes:
        yield from _sizes(whole.sized())


def _one_of(names: Collection[str]) -> str:
    """Return a list of the names, the first `NAMES_SHOWN` of them."""
    listed = ", ".join(islice(names, NAMES_SHOWN))
    return listed if len(names) <= NAMES_SHOWN else f"{listed} and {len(names) - NAMES_SHOWN} more"


def _names(named: Names) -> Iterator[FieldError]:
    for table, names in named.items():
        yield from (FieldError((table,), name, NAME_RULE) for name in names if not NAME.fullmatch(name))


def _links(topology: Topology, named: Names) -> Iterator[FieldError]:
    """Yield the problems of links: their ends must be two hosts, or a host and another process.

    A root complex has a bus for each of its links.
    """
    hosts = named.get("hosts", ())
    buses: Counter[str] = Counter()
    for name, link in topology.links.items():
        path = ("links", name)
        if isinstance(link.root, str):
            buses[link.root] += 1
            if buses[link.root] == BUSES + 1:
                why = f"must be another host: {link.root} has {BUSES} links already, each of which is a bus"
                yield FieldError((*path, "root"), link.root, why)
        for end in ("root", "endpoint"):
            given = getattr(link, end)
            if isinstance(given, str) and given not in hosts:
                yield FieldError((*path, end), given, f"must be one of {_one_of(hosts)}")
        if link.root == link.endpoint:
            yield FieldError((*path, "endpoint"), str(link.endpoint), "must differ from root")
        yield from (problem.inside(*path) for problem in _remote_ends(link))
        if link.faults is not None:
            yield from (problem.inside(*path, "faults") for problem in link.faults.problems())
        if link.wire is not None:
            yield from (problem.inside(*path, "wire") for problem in link.wire.problems())


def _remote_ends(link: LinkSpec) -> Iterator[FieldError]:
    """Yield the problems of a link to another process: it has one host, and its accesses are only simulated there."""
    root, endpoint = link.root, link.endpoint
    if isinstance(root, RemoteEnd) and root.peer_uid is not None:
        why = "must be absent at root: the mode of our own socket decides who may connect"
        yield FieldError(("root", "peer_uid"), root.peer_uid, why)
    if isinstance(root, ProcessEnd) and isinstance(endpoint, ProcessEnd):
        yield FieldError(("endpoint",), str(endpoint), "must be a host: the root is another process already")
    if link.vfio_user is not None and link.remote:
        yield FieldError(("vfio_user",), link.vfio_user, "must be absent: one end is another process already")
    if link.stream is not None:
        if link.vfio_user is not None or link.remote:
            yield FieldError(("stream",), None, "must be absent: vfio_user leads to another process already")
        for key in TIMING_KEYS:
            if getattr(link, key) is not None:
                why = "must be absent: packets of a stream take the time that they take"
                yield FieldError((key,), getattr(link, key), why)
    if link.wire is not None and link.stream is not None:
        yield FieldError(("wire",), None, "must be absent: a stream carries the packets")
    elif link.wire is not None and (link.remote or link.vfio_user is not None):
        yield FieldError(("wire",), None, "must be absent: both ends of a wire are hosts of this process")
    if isinstance(endpoint, ProcessEnd):
        for key in (*TIMING_KEYS, "faults"):
            if getattr(link, key) is not None:
                why = "must be absent: memory accesses of an endpoint in another process do not travel this link"
                yield FieldError((key,), getattr(link, key) if key != "faults" else None, why)


def _ntbs(topology: Topology, named: Names) -> Iterator[FieldError]:
    """Yield the problems of NTBs: their links must end at their host and start at two others; their window must fit."""
    links = topology.links
    ending_at = defaultdict(list)
    for link_name, link in links.items():
        ending_at[str(link.endpoint)].append(link_name)
    for name, ntb in topology.ntbs.items():
        ours = ending_at.get(ntb.host, [])
        for end in ("primary", "secondary"):
            given = getattr(ntb, end)
            if given not in ours and (given in links or given not in named.get("links", ())):
                why = f"must be a link whose endpoint is {ntb.host}: {_one_of(ours) or 'there is none'}"
                yield FieldError(("ntbs", name, end), given, why)
        if ntb.secondary not in links:
            continue
        driver = str(links[ntb.secondary].root)
        if ntb.primary in links and str(links[ntb.primary].root) == driver:
            why = f"must be a link from another host than primary: both start at {driver}"
            yield FieldError(("ntbs", name, "secondary"), ntb.secondary, why)
        memory = topology.hosts[driver].memory or MEMORY if driver in topology.hosts else MEMORY_MAX
        if ntb.mw is not None and ntb.mw >= memory:
            why = f"must be below {memory}: the window is part of the memory of host {driver}"
            yield FieldError(("ntbs", name, "mw"), ntb.mw, why)


def _devices(topology: Topology, named: Names, incomplete: Collection[Keys]) -> Iterator[FieldError]:
    """Yield the problems of devices: each needs a carrier of its own, and its fields must go together."""
    functions: dict[tuple[str | None, int], str] = {}
    for name, ntb in topology.ntbs.items():
        for key, link in (("primary", ntb.primary), ("secondary", ntb.secondary)):
            other = functions.setdefault((link, 0), f"ntb {name}")
            if other != f"ntb {name}":
                yield FieldError(("ntbs", name, key), link, f"already used by {other}")
    carried: dict[str | None, str] = {}
    for name, device in topology.devices.items():
        path = ("devices", name)
        yield from (problem.inside(*path) for problem in _of_carrier(device, named))
        other = functions.setdefault((device.link, device.function), name)
        if other != name and device.link is not None:
            yield FieldError((*path, "function"), device.function, f"already used by {other} on the same link")
        other = carried.setdefault(device.ntb, name)
        if other != name and device.ntb is not None:
            yield FieldError((*path, "ntb"), device.ntb, f"already used by {other}: an NTB carries one device")
        ntb_spec = topology.ntbs.get(device.ntb or "")
        remote = [] if ntb_spec is None else _remote_roots(topology, ntb_spec)
        if remote:
            why = f"must have hosts at both sides: the root of link {remote[0]} is another process"
            yield FieldError((*path, "ntb"), device.ntb, why)
        yield from (problem.inside(*path) for problem in _other_side(device, topology))
        why = unmediated(device.type, device.transport) if device.mode == "mediated" else ""
        if why:
            yield FieldError((*path, "mode"), device.mode, f"must be direct: {why}")
        if path not in incomplete:
            yield from (problem.inside(*path) for problem in device.problems())


def _other_side(device: DeviceSpec, topology: Topology) -> Iterator[FieldError]:
    """Yield the key of a side that is in another process."""
    link = topology.links.get(device.link or "")
    standard = type(device)(type=device.type)
    for side, end in () if link is None else (("driver", link.root), ("device", link.endpoint)):
        if isinstance(end, ProcessEnd) and getattr(device, side, None) != getattr(standard, side, None):
            yield FieldError((side,), None, f"must be absent: the {side} belongs to another process")


def _remote_roots(topology: Topology, ntb: NtbSpec) -> list[str]:
    """Return the links of an NTB whose root complex is another process."""
    links = (name for name in (ntb.primary, ntb.secondary) if name in topology.links)
    return [name for name in links if isinstance(topology.links[name].root, ProcessEnd)]


def _of_carrier(device: DeviceSpec, named: Names) -> Iterator[FieldError]:
    """Yield the problems of a device's carrier and transport options."""
    transport = TRANSPORTS[device.transport]
    for key in CARRIERS:
        given, names = getattr(device, key), named.get(f"{key}s", ())
        if key != transport.on and given is not None:
            why = f"must be absent: transport {device.transport} needs the key {transport.on}"
            yield FieldError((key,), given, why)
        if key == transport.on and given not in names:
            why = f"must be one of {_one_of(names)}" if names else f"must be a {key}, and there is none"
            yield FieldError((key,), given, why)
    field, queues = device.queue_count
    if transport.queues is not None and queues > transport.queues:
        why = f"must be less: it takes {queues} queues, and transport {device.transport} carries {transport.queues}"
        yield FieldError((field,), getattr(device, field), why)
    if transport.on != "link" and device.function:
        yield FieldError(("function",), device.function, f"must be absent for transport {device.transport}")
    own = [option.name for option in attrs.fields(transport.options)]
    for option in attrs.fields(type(device.options)):
        given = getattr(device.options, option.name)
        if option.name not in own and given != option.default:
            yield FieldError((option.name,), given, f"must be absent for transport {device.transport}")
    standard = type(device)(type=device.type)
    if device.foreign and getattr(device, "device", None) != getattr(standard, "device", None):
        yield FieldError(("device",), None, "must be absent with socket: the device belongs to another process")


def _whole(topology: Topology, faulty: Collection[Keys]) -> Topology:
    """Return the topology without faulty devices, and without those whose carrier is not in it."""
    links = topology.links
    ntbs = {name: ntb for name, ntb in topology.ntbs.items() if {ntb.primary, ntb.secondary} <= links.keys()}
    devices = {
        name: device
        for name, device in topology.devices.items()
        if ("devices", name) not in faulty
        and (device.link is None or device.link in links)
        and (device.ntb is None or device.ntb in ntbs)
    }
    return attrs.evolve(topology, ntbs=ntbs, devices=devices)


def _claimed_twice(topology: Topology) -> Iterator[FieldError]:
    """Yield the interfaces, files and sockets that two parts of the system would use."""
    taken: dict[tuple[str, ...], Keys] = {}
    for path, resource in _claims(topology):
        other = taken.setdefault(resource, path)
        if other != path:
            scope = " in the same namespace" if resource[0] == "interface" else ""
            yield FieldError(path, resource[-1], f"already used by {dotted(other[:-1])}{scope}")


def _claims(topology: Topology) -> Iterator[tuple[Keys, tuple[str, ...]]]:
    for name, link in topology.links.items():
        if link.trace:
            yield ("links", name, "trace"), ("file", file_key(link.trace))
    for name, path in topology.sockets():
        yield ("links", name, "root", "vfio_user"), ("file", file_key(path))
    for name, device in topology.devices.items():
        for keys, resource in device.claims(topology.ends(device)):
            yield ("devices", name, *keys), resource


def _sizes(topology: Topology) -> Iterator[FieldError]:
    """Yield the sizes with which a driver can't start; the topology is `Topology.sized`."""
    for name, device in topology.devices.items():
        yield from (problem.inside("devices", name) for problem in device.shortages())
    windows, needs = topology.windows(), topology.needs(foreign=False)
    for name, ntb in topology.ntbs.items():
        device_name, need = windows.get(name, ("", 0))
        assert ntb.mw is not None
        if need > ntb.mw:
            why = f"must be at least {need} MiB for the driver of {device_name}, and at most {WINDOW_MAX}"
            yield FieldError(("ntbs", name, "mw"), ntb.mw if need <= WINDOW_MAX else None, why)
    for name, host in topology.hosts.items():
        need = mebibytes(needs[name])
        assert host.memory is not None
        if need > host.memory:
            each = _one_of([f"{of} {-(-size // MIB)}" for of, size in needs[name].items() if size])
            why = f"must be at least {need} MiB for the drivers ({each}), and at most {MEMORY_MAX}"
            yield FieldError(("hosts", name, "memory"), host.memory if need <= MEMORY_MAX else None, why)
