"""What to build, as plain data: hosts, links, devices and their ports. Read from TOML, checked once, never changed."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn

from drivers.registry import TRANSPORTS
from vnet.ends import ENDS
from vnet.errors import ConfigError, FieldError
from vnet.matrix import unmediated
from vnet.spec import NAME, DeviceSpec, HostSpec, LinkSpec, Netns, NtbSpec

__all__ = ["DEFAULT", "Topology", "load", "parse", "parse_device", "read"]

FILE_MAX = 16 << 20
"""Bytes of the longest topology file; more is another file, or a device without an end."""

T = TypeVar("T")


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
        """Raise ConfigError where one part names another that is not there, or two claim the same."""
        named = {"hosts": self.hosts, "links": self.links, "ntbs": self.ntbs, "devices": self.devices}
        for kind, names in named.items():
            for name in names:
                if not NAME.fullmatch(name):
                    raise ConfigError(file, kind, name, "names are lower-case letters, digits, - and _")
        for name, link in self.links.items():
            for end in ("root", "endpoint"):
                if getattr(link, end) not in self.hosts:
                    raise ConfigError(
                        file, f"links.{name}.{end}", getattr(link, end), f"hosts are {', '.join(self.hosts)}"
                    )
            if link.root == link.endpoint:
                raise ConfigError(file, f"links.{name}", link.root, "a link joins two different hosts")
        places: dict[tuple[str | None, int], str] = {}
        for name, ntb in self.ntbs.items():
            self._check_ntb(file, name, ntb)
            for link_name in (ntb.primary, ntb.secondary):
                other = places.setdefault((link_name, 0), f"ntb {name}")
                if other != f"ntb {name}":
                    raise ConfigError(file, f"ntbs.{name}", link_name, f"{other} has the link already")
        clients: dict[str | None, str] = {}
        taken: dict[tuple[str, ...], str] = {}
        for name, device in self.devices.items():
            path = f"devices.{name}"
            self._check_carrier(file, path, device)
            other = places.setdefault((device.link, device.function), name)
            if other != name and device.link is not None:
                raise ConfigError(file, f"{path}.function", device.function, f"{other} has it on the same link")
            other = clients.setdefault(device.ntb, name)
            if other != name and device.ntb is not None:
                raise ConfigError(file, f"{path}.ntb", device.ntb, f"{other} has it already: an NTB carries one device")
            if device.mode == "mediated":
                why = unmediated(device.type, device.transport)
                if why:
                    raise ConfigError(file, f"{path}.mode", device.mode, why)
            clash = device.clash()
            if clash is not None:
                raise ConfigError(file, f"{path}.{clash[0]}", clash[1], clash[2])
            try:
                device.features_off_mask()
            except KeyError as exc:
                raise ConfigError(file, f"{path}.features_off", list(device.features_off), exc.args[0]) from None
            for field, thing in device.claims(self.ends(device)):
                other = taken.setdefault(thing, f"{path}.{field}")
                if other != f"{path}.{field}":
                    raise ConfigError(
                        file, f"{path}.{field}", thing[-1], f"{other.rsplit('.', 1)[0]} has it in the same namespace"
                    )
        return self

    def _check_ntb(self, file: str, name: str, ntb: NtbSpec) -> None:
        """Two links that end at one host, from two others, the second of which has memory for the window."""
        path = f"ntbs.{name}"
        for end in ("primary", "secondary"):
            link = self.links.get(getattr(ntb, end))
            if link is None or link.endpoint != ntb.host:
                ours = ", ".join(at for at, spec in self.links.items() if spec.endpoint == ntb.host)
                raise ConfigError(
                    file, f"{path}.{end}", getattr(ntb, end), f"links whose endpoint is {ntb.host} are {ours or 'none'}"
                )
        driver = self.links[ntb.secondary].root
        if self.links[ntb.primary].root == driver:
            raise ConfigError(file, path, driver, "an NTB joins two different hosts")
        if ntb.mw >= self.hosts[driver].memory:
            why = f"host {driver} has {self.hosts[driver].memory} MiB of memory, and the window is a part of it"
            raise ConfigError(file, f"{path}.mw", ntb.mw, why)

    def _check_carrier(self, file: str, path: str, device: DeviceSpec) -> None:
        """The transport says which key names what carries it; that one must be there, and no other."""
        carriers: Mapping[str, Mapping[str, object]] = {"link": self.links, "host": self.hosts, "ntb": self.ntbs}
        transport = TRANSPORTS[device.transport]
        on = transport.on
        for key, known in carriers.items():
            given = getattr(device, key)
            if key != on and given is not None:
                raise ConfigError(file, f"{path}.{key}", given, f"transport {device.transport} is carried by a {on}")
            if key == on and given not in known:
                raise ConfigError(file, f"{path}.{key}", given, f"it must be one of {', '.join(known)}")
        field, queues = device.queue_count
        if transport.queues is not None and queues > transport.queues:
            why = f"that takes {queues} queues, and transport {device.transport} carries {transport.queues} at most"
            raise ConfigError(file, f"{path}.{field}", getattr(device, field), why)
        own = {"function"} if on == "link" else set()
        for key in {"function", *(key for other in TRANSPORTS.values() for key in other.options)} - own:
            given = getattr(device, key)
            if key not in transport.options and given != attrs.fields_dict(type(device))[key].default:
                raise ConfigError(file, f"{path}.{key}", given, f"transport {device.transport} has no such setting")
        if device.peer_uid is not None and not device.foreign:
            raise ConfigError(file, f"{path}.peer_uid", device.peer_uid, "without a socket there is no other program")
        usual = type(device)(type=device.type)
        if device.foreign and getattr(device, "device", None) != getattr(usual, "device", None):
            why = "nothing can be said of it here: with a socket the device is another program's"
            raise ConfigError(file, f"{path}.device", None, why)


def parse(text: str, file: str = "topology") -> Topology:
    """A topology from TOML text. Raises ConfigError, which names the first thing wrong in one line."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(file, "", None, f"not valid TOML: {exc}") from None
    except RecursionError:
        raise ConfigError(file, "", None, "not valid TOML: nested too deeply") from None
    try:
        topology: Topology = _converter().structure({"links": {}} | raw, Topology)
        return topology.check(file)
    except cattrs.BaseValidationError as exc:
        path, value, why = _first(exc, raw, "")
        raise ConfigError(file, path or "top level", value, why) from None


def parse_device(keys: Mapping[str, Any], file: str) -> DeviceSpec:
    """A device that is in no topology, of the keys it would have there. Raises ConfigError."""
    try:
        device: DeviceSpec = _converter().structure(keys, DeviceSpec)
    except cattrs.BaseValidationError as exc:
        raise ConfigError(file, *_first(exc, keys, "")) from None
    clash = device.clash()
    if clash is not None:
        raise ConfigError(file, *clash)
    try:
        device.features_off_mask()
    except KeyError as exc:
        raise ConfigError(file, "features_off", list(device.features_off), exc.args[0]) from None
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


def _converter() -> Any:
    converter: Any = cattrs.Converter()  # whose hooks can't be typed

    words: Mapping[type, str] = {int: "a whole number", str: "text in quotes", bool: "true or false"}

    def exact(kind: type[T]) -> Callable[[Any, Any], T]:
        """TOML has types of its own: a number in quotes is no number."""

        def structure(value: Any, _: Any) -> T:
            if type(value) is not kind:
                raise ValueError(f"it must be {words[kind]}")
            if isinstance(value, str):
                _refuse_nul(value)
            return value

        return structure

    converter.register_structure_hook(int, exact(int))
    converter.register_structure_hook(str, exact(str))
    converter.register_structure_hook(bool, exact(bool))

    def structure_number(value: Any, _: Any) -> float:
        if type(value) not in {int, float}:
            raise ValueError("it must be a number")
        return float(value)

    converter.register_structure_hook(float, structure_number)

    def structure_list(value: Any, kind: Any) -> Any:
        # A string would do where any iterable does, letter by letter.
        if not isinstance(value, list):
            raise ValueError("it must be a list")
        return tuple(converter.structure(value, types.GenericAlias(list, get_args(kind)[:1])))

    def structure_table(value: Any, kind: Any) -> Any:
        return converter.structure(_table(value), types.GenericAlias(dict, get_args(kind)))

    def record(kind: Any) -> Callable[[Any, Any], Any]:
        structure = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
        return lambda value, kind: structure(_table(value), kind)

    def structure_choice(value: Any, kind: Any) -> Any:
        if value not in get_args(kind):
            raise ValueError(f"it must be one of {', '.join(get_args(kind))}")
        return value

    def is_a(origin: object) -> Callable[[Any], bool]:
        return lambda kind: get_origin(kind) is origin

    converter.register_structure_hook_func(is_a(Literal), structure_choice)
    converter.register_structure_hook_func(is_a(tuple), structure_list)
    converter.register_structure_hook_func(is_a(Mapping), structure_table)
    converter.register_structure_hook_factory(attrs.has, record)

    def structure_device(value: Any, _: Any) -> Any:
        kind = _table(value).get("type", "net")
        # An unknown type is left to the record, whose own check says so.
        return converter.structure(value, ENDS[kind].spec if kind in ENDS else next(iter(ENDS.values())).spec)

    converter.register_structure_hook_func(lambda kind: kind is DeviceSpec, structure_device)
    return converter


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise ValueError("it must not contain a NUL character")  # no path and no name can


def _table(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("it must be a table")
    return value


def _first(exc: BaseException, raw: Any, path: str) -> tuple[str, object, str]:
    """Walk down to the first error: where it is, what stands there, and what is wrong with it."""
    if isinstance(exc, ForbiddenExtraKeysError):
        key = min(exc.extra_fields)
        known = ", ".join(a.name for a in attrs.fields(exc.cl))
        return f"{path}.{key}".lstrip("."), raw[key], f"unknown key; known are {known}"
    if isinstance(exc, FieldError):
        return f"{path}.{exc.field}".lstrip("."), exc.value, f"it must be {exc.why}"
    if isinstance(exc, cattrs.BaseValidationError):
        # A key that should not be there tells more than what is missing in its place.
        inner = next((e for e in exc.exceptions if isinstance(e, ForbiddenExtraKeysError)), exc.exceptions[0])
        for note in getattr(inner, "__notes__", ()):
            name = getattr(note, "name", getattr(note, "index", None))
            if name is None:
                continue
            below = raw.get(name) if isinstance(raw, dict) else raw
            if isinstance(exc, IterableValidationError) and isinstance(raw, list):
                return _first(inner, raw[int(name)], f"{path}[{name}]")
            return _first(inner, below, f"{path}.{name}")
        return _first(inner, raw, path)
    if isinstance(exc, KeyError):
        return path.lstrip("."), None, "it is missing"
    return path.lstrip("."), raw, str(exc) or type(exc).__name__


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
