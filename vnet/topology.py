"""What to build, as plain data: hosts, links, devices and their ports. Read from TOML, checked once, never changed."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError, IterableValidationError

from drivers.registry import DEVICES, TRANSPORTS
from rings.features import bits, mask
from vnet.errors import ConfigError

__all__ = [
    "DEFAULT",
    "DeviceSpec",
    "HostSpec",
    "LinkSpec",
    "PortSpec",
    "Topology",
    "load",
    "parse",
]

MIB = 1 << 20
PortKind = Literal["tun", "tap", "memory"]
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""Names of systems, hosts, links and devices."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
"""Names of namespaces and interfaces, which the kernel shows as files."""
T = TypeVar("T")


class _FieldError(ValueError):
    """One field of a record has a value it can't have."""

    def __init__(self, field: str, value: object, why: str) -> None:
        super().__init__(field, value, why)
        self.field, self.value, self.why = field, value, why


def _must(good: Callable[[Any], object], why: str) -> Any:
    """An attrs validator with a sentence of its own."""

    def validate(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not good(value):
            raise _FieldError(field.name, value, why)

    return validate


def _is_mac(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text.lower()) is not None and not int(text[:2], 16) & 1


def _is_interface(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "/" in text


@attrs.frozen
class HostSpec:
    """One machine."""

    memory: int = attrs.field(default=128, validator=_must(lambda v: 1 <= v <= 1 << 20, "MiB of memory, 1 to 1048576"))
    """MiB; pages that nobody uses take none."""


@attrs.frozen
class LinkSpec:
    """A PCI Express link from one host's root complex to another's endpoint controller."""

    root: str
    endpoint: str


@attrs.frozen
class PortSpec:
    """What one end of a network device is plugged into."""

    kind: PortKind = "tun"
    netns: str | None = attrs.field(default=None, validator=_must(FILE_NAME.fullmatch, "the name of a namespace"))
    """A namespace that exists already and is never deleted; by default the host's own, made and deleted."""
    ifname: str = attrs.field(
        default="vnet0",
        validator=_must(
            lambda v: len(v) < 16 and FILE_NAME.fullmatch(v), "the name of an interface, at most 15 characters"
        ),
    )
    addresses: tuple[str, ...] = attrs.field(
        default=(),
        validator=_must(lambda v: all(map(_is_interface, v)), "addresses with their prefix, such as 198.18.0.1/24"),
    )
    txqueuelen: int = attrs.field(default=1000, validator=_must(lambda v: 1 <= v <= 1 << 20, "1 to 1048576 packets"))

    def netns_of(self, name: str, host: str) -> str | None:
        """Its namespace on ``host`` of the system ``name``; None for a port that needs none."""
        return None if self.kind == "memory" else self.netns or f"{name}-{host}"


@attrs.frozen
class DeviceSpec:
    """One virtio device: its type, what carries it, and what is at its two ends."""

    type: str = attrs.field(default="net", validator=_must(lambda v: v in DEVICES, f"one of {', '.join(DEVICES)}"))
    transport: str = attrs.field(
        default="pci", validator=_must(lambda v: v in TRANSPORTS, f"one of {', '.join(TRANSPORTS)}")
    )
    link: str | None = None
    """What carries it, for transports on a link."""
    function: int = attrs.field(default=0, validator=_must(lambda v: 0 <= v <= 7, "a PCI function, 0 to 7"))
    queue_size: int = attrs.field(
        default=256, validator=_must(lambda v: 2 <= v <= 32768 and not v & (v - 1), "a power of two from 2 to 32768")
    )
    features_off: tuple[str, ...] = ()
    mac: str | None = attrs.field(
        default=None, validator=_must(_is_mac, "a unicast MAC address, such as 02:00:00:00:00:01")
    )
    """The address of the driver's interface."""
    peer_mac: str | None = attrs.field(
        default=None, validator=_must(_is_mac, "a unicast MAC address, such as 02:00:00:00:00:02")
    )
    """The address of the interface at the device's end."""
    mtu: int = attrs.field(default=1500, validator=_must(lambda v: 68 <= v <= 65521, "68 to 65521 bytes"))
    rx_buffer: int | None = attrs.field(
        default=None, validator=_must(lambda v: 64 <= v <= 1 << 20, "64 to 1048576 bytes")
    )
    """Bytes of the driver's receive buffers; by default each holds any frame."""
    driver: PortSpec = PortSpec()
    device: PortSpec = PortSpec()

    def features_off_mask(self) -> int:
        """The bits to switch off. Raises KeyError with the names that can be."""
        device = DEVICES[self.type]
        names = {device.table.name(bit): bit for bit in bits(device.switchable)}
        for name in self.features_off:
            if name.upper() not in names:
                raise KeyError(f"no feature {name} to switch off; there are {', '.join(names)}")
        return mask(names[name.upper()] for name in self.features_off)


@attrs.frozen
class Topology:
    """Everything there is."""

    hosts: Mapping[str, HostSpec]
    links: Mapping[str, LinkSpec]
    devices: Mapping[str, DeviceSpec]

    def ports(self) -> Iterator[tuple[str, str, str, PortSpec]]:
        """Every port: its device, at which end (driver or device), on which host, and the port."""
        for name, device in self.devices.items():
            link = self.links[device.link]
            yield name, "driver", link.root, device.driver
            yield name, "device", link.endpoint, device.device

    def host_netns(self, name: str, host: str) -> str | None:
        """The namespace of a host's first port that has one, in the system ``name``."""
        return next(
            (netns for _, _, at, port in self.ports() if at == host and (netns := port.netns_of(name, at))), None
        )

    def own_netns(self, name: str) -> tuple[str, ...]:
        """The namespaces that are the hosts' own in the system ``name``: made with it, and removed with it."""
        found = {port.netns_of(name, host) for _, _, host, port in self.ports() if port.netns is None}
        return tuple(sorted(filter(None, found)))

    def ends(self, device: DeviceSpec) -> tuple[str, str]:
        """The names of the driver's and of the device's host."""
        assert device.link is not None
        link = self.links[device.link]
        return link.root, link.endpoint

    def check(self, file: str) -> Topology:
        """Raise ConfigError where one part names another that is not there, or two claim the same."""
        for kind, names in (("hosts", self.hosts), ("links", self.links), ("devices", self.devices)):
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
        places: dict[tuple[str, int], str] = {}
        taken: dict[tuple[str, str], str] = {}
        for name, device in self.devices.items():
            path = f"devices.{name}"
            self._check_carrier(file, path, device)
            other = places.setdefault((device.link, device.function), name)
            if other != name:
                raise ConfigError(file, f"{path}.function", device.function, f"{other} has it on the same link")
            if device.mac is not None and device.mac == device.peer_mac:
                raise ConfigError(file, f"{path}.peer_mac", device.peer_mac, "both ends have the same address")
            try:
                device.features_off_mask()
            except KeyError as exc:
                raise ConfigError(file, f"{path}.features_off", list(device.features_off), exc.args[0]) from None
        for name, end, host, port in self.ports():
            where = f"devices.{name}.{end}"
            if port.kind != "memory":
                other = taken.setdefault((port.netns or f"host {host}", port.ifname), where)
                if other != where:
                    raise ConfigError(file, f"{where}.ifname", port.ifname, f"{other} has it in the same namespace")
        return self

    def _check_carrier(self, file: str, path: str, device: DeviceSpec) -> None:
        """The transport says which key names what carries it; that one must be there, and no other."""
        carriers: Mapping[str, Mapping[str, object]] = {"link": self.links}
        on = TRANSPORTS[device.transport].on
        for key, known in carriers.items():
            given = getattr(device, key)
            if key != on and given is not None:
                raise ConfigError(file, f"{path}.{key}", given, f"transport {device.transport} is carried by a {on}")
            if key == on and given not in known:
                raise ConfigError(file, f"{path}.{key}", given or "", f"it must be one of {', '.join(known)}")


def parse(text: str, file: str = "topology") -> Topology:
    """A topology from TOML text. Raises ConfigError, which names the first thing wrong in one line."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(file, "TOML", "", str(exc)) from None
    try:
        return _converter().structure(raw, Topology).check(file)
    except cattrs.BaseValidationError as exc:
        path, value, why = _first(exc, raw, "")
        raise ConfigError(file, path or "top level", value, why) from None


def load(path: Path) -> Topology:
    """A topology from a file. Raises ConfigError."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as exc:
        raise ConfigError(str(path), "file", "", exc.strerror or str(exc)) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "file", "", "it is not UTF-8 text") from None


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def exact(kind: type[T]) -> Callable[[Any, Any], T]:
        """TOML has types of its own: a number in quotes is no number."""

        def structure(value: Any, _: Any) -> T:
            if type(value) is not kind:
                raise ValueError(f"it must be {'a whole number' if kind is int else 'text in quotes'}")
            return value

        return structure

    converter.register_structure_hook(int, exact(int))
    converter.register_structure_hook(str, exact(str))
    return converter


def _first(exc: BaseException, raw: Any, path: str) -> tuple[str, object, str]:
    """Walk down to the first error: where it is, what stands there, and what is wrong with it."""
    if isinstance(exc, ForbiddenExtraKeysError):
        key = min(exc.extra_fields)
        known = ", ".join(a.name for a in attrs.fields(exc.cl))
        return f"{path}.{key}".lstrip("."), raw[key], f"unknown key; known are {known}"
    if isinstance(exc, _FieldError):
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
        return path.lstrip("."), "", "it is missing"
    if str(exc).endswith(f"not in literal {PortKind}"):
        return path.lstrip("."), raw, f"it must be one of {', '.join(get_args(PortKind))}"
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
