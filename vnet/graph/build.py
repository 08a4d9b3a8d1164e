"""The graph of a topology file, and of a running system, from the same parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

from vnet.graph.model import Edge, Graph, Group, Node, State, edge_state, node
from vnet.spec import DeviceSpec, LinkSpec
from vnet.topology import Topology
from vnet.views.ends import EndView, PortView
from vnet.views.link import LinkView
from vnet.views.system import DeviceView, SystemView

__all__ = ["of_system", "of_topology"]

STATUS = ("FAILED", "NEEDS_RESET", "DRIVER_OK", "FEATURES_OK", "DRIVER", "ACKNOWLEDGE")
"""Status bits; a device's node shows the first one that is set."""
END_KEYS = ("kind", "store")
"""Keys of an end that are shown even with their default."""


@attrs.frozen
class _Link:
    """A link between two hosts."""

    root: str
    endpoint: str
    notes: tuple[str, ...]
    state: State


@attrs.frozen
class _Ntb:
    """An NTB: its host, and the links to the device's and to the driver's host."""

    host: str
    primary: str
    secondary: str
    state: State


@attrs.frozen
class _Device:
    """A device: the two places of its ends, their texts, and the link or NTB that carries it."""

    hosts: tuple[str, str]
    ends: tuple[tuple[str, ...], tuple[str, ...]]
    notes: tuple[str, ...]
    on: str | None
    state: State


def of_topology(title: str, topology: Topology) -> Graph:
    """Return the graph of a topology."""
    links = {name: _Link(*link.ends, tuple(_link_notes(link)), "") for name, link in topology.links.items()}
    ntbs = {name: _Ntb(ntb.host, ntb.primary, ntb.secondary, "") for name, ntb in topology.ntbs.items()}
    devices = {
        name: _Device(topology.ends(spec), _spec_ends(name, spec), _device_notes(spec), spec.link or spec.ntb, "")
        for name, spec in topology.devices.items()
    }
    return _graph(title, topology.hosts, links, ntbs, devices)


def of_system(system: SystemView) -> Graph:
    """Return the graph of a running system, with the states of links and devices."""
    links = {
        name: _Link(view.root, view.endpoint, tuple(_running_notes(view)), edge_state(view.figures.up))
        for name, view in system.links.items()
    }
    carriers = {(name, each.name): each.link for name, host in system.hosts.items() for each in host.controllers}
    ntbs = {
        name: _Ntb(
            ntb.host,
            carriers[ntb.host, ntb.primary.controller],
            carriers[ntb.host, ntb.secondary.controller],
            edge_state(ntb.link_up),
        )
        for name, ntb in system.ntbs.items()
    }
    devices = {
        name: _Device(
            (view.driver.host, view.device.host),
            _view_ends(name, view),
            (view.transport, edge_state(view.up)),
            view.on,
            edge_state(view.up),
        )
        for name, view in system.devices.items()
    }
    return _graph(system.name, system.hosts, links, ntbs, devices)


def _graph(
    title: str,
    hosts: Iterable[str],
    links: Mapping[str, _Link],
    ntbs: Mapping[str, _Ntb],
    devices: Mapping[str, _Device],
) -> Graph:
    """Join the parts: each host has its links, each with its devices behind it, then the other devices."""
    groups: dict[str, list[Node]] = {host: [] for host in hosts}
    edges: list[Edge] = []
    bridges = {link: name for name, ntb in ntbs.items() for link in (ntb.primary, ntb.secondary)}

    def add(place: str, ident: str, lines: Iterable[str], state: State) -> str:
        groups.setdefault(place, []).append(node(f"{place}/{ident}", lines, state))
        return f"{place}/{ident}"

    def add_devices(carrier: str | None) -> None:
        for name, device in devices.items():
            if device.on == carrier or (carrier is None and device.on not in {*links, *ntbs}):
                driver = add(device.hosts[0], f"{name}.driver", device.ends[0], device.state)
                other = add(device.hosts[1], f"{name}.device", device.ends[1], device.state)
                edges.append(Edge(driver, other, ", ".join((name, *device.notes)), "device", device.state))

    for name, ntb in ntbs.items():
        add(ntb.host, name, (f"{name} NTB", *_words(ntb.state)), ntb.state)
    for name, link in links.items():
        root = add(link.root, name, (f"{name} root complex",), link.state)
        label = ", ".join((name, *link.notes, *_words(link.state)))
        bridge = bridges.get(name)
        if bridge is None:
            ends = (root, add(link.endpoint, name, (f"{name} endpoint",), link.state))
        elif ntbs[bridge].secondary == name:
            ends = (root, f"{link.endpoint}/{bridge}")
        else:
            ends = (f"{link.endpoint}/{bridge}", root)
        edges.append(Edge(*ends, label, "link", link.state))
        add_devices(name)
    for name in ntbs:
        add_devices(name)
    add_devices(None)
    return Graph(title, tuple(Group(name, tuple(nodes)) for name, nodes in groups.items()), tuple(edges))


def _words(state: State) -> tuple[str, ...]:
    return (state,) if state else ()


def _link_notes(link: LinkSpec) -> Iterator[str]:
    if link.timed:
        yield f"Gen{link.generation or 3} x{link.lanes or 8}"
    if link.faults is not None:
        yield "faults"


def _running_notes(link: LinkView) -> Iterator[str]:
    timing = link.figures.timing
    if timing is not None:
        yield f"Gen{timing.generation} x{timing.lanes}"
    if link.figures.faults or link.figures.rules:
        yield "faults"


def _device_notes(spec: DeviceSpec) -> tuple[str, ...]:
    return (spec.transport, *(("mediated",) if spec.mode == "mediated" else ()))


def _spec_ends(name: str, spec: DeviceSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of both ends: name, side, and the keys that a file gives to the end."""
    driver = (f"{name} {spec.type} driver", _given(getattr(spec, "driver", None)))
    device = (f"{name} {spec.type} device", "" if spec.foreign else _given(getattr(spec, "device", None)))
    return driver, device


def _given(end: object) -> str:
    """Return the keys of an end that differ from their defaults, and its kind."""
    record = type(end)
    if not attrs.has(record):
        return ""
    fields = ((field, getattr(end, field.name)) for field in attrs.fields(record))
    return ", ".join(
        _fact(field.name, value)
        for field, value in fields
        if value not in (None, False, ()) and (value != field.default or field.name in END_KEYS)
    )


def _fact(key: str, value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) if all(isinstance(each, str) for each in value) else f"{len(value)} {key}"
    if isinstance(value, str):
        return value
    return key if value is True else f"{key} {value}"


def _view_ends(name: str, view: DeviceView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of both ends: name, side, port, status, and why the device is down."""
    trouble = "" if view.up else f"down: {view.trouble}"
    status = "" if view.driver.foreign else _status(view.driver.status)
    driver = (f"{name} {view.type} driver", _port(view.driver.port), status, trouble)
    status = "" if view.device.foreign else _status(view.device.status)
    return driver, (f"{name} {view.type} device", _port(view.device.port), status)


def _port(end: EndView) -> str:
    facts = [end.kind]
    if isinstance(end, PortView):
        facts += [*filter(None, (end.ifname,)), *end.addresses]
    return ", ".join(facts)


def _status(bits: Iterable[str]) -> str:
    return next((bit for bit in STATUS if bit in bits), "reset")
