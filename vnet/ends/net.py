"""What a network device is plugged into: a packet port at each end."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from ipaddress import ip_interface
from typing import Literal, Protocol

import attrs

from drivers.devices.net import MediatedNetPlug, NetMediator, NetPlug
from drivers.devices.net.control import VID_MAX
from drivers.devices.net.driver import NetSettings
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import COMMANDED, LINK_UP, SPEED_MAX, Duplex, NetConfig
from drivers.devices.net.layout import NetFeature as F
from drivers.devices.net.station import Wishes
from drivers.ports import ALL_OFFLOADS, PacketPort
from drivers.user import OwnConfig
from rings.features import mask
from vnet.ends.base import Figures, OpenContext, Side
from vnet.ends.net_report import describe_plug, describe_settings
from vnet.errors import ConfigError, SettingRefused
from vnet.ports.interface import PortConfig, open_packet_port
from vnet.ports.memory import MemoryPort
from vnet.ports.netns import Route, has_netns, open_netns
from vnet.ports.poller import Poller
from vnet.ports.watch import Watches
from vnet.spec import FILE_NAME, DeviceSpec, Netns, PeerSpec, must

__all__ = [
    "NetEnd",
    "NetSpec",
    "OpenPort",
    "PortKind",
    "PortSpec",
    "mediate_net",
    "net_specs",
    "open_net",
    "open_net_device",
    "open_net_driver",
    "open_port",
    "own_net_config",
]

PortKind = Literal["tun", "tap", "memory"]


def _is_mac(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text.lower()) is not None and not int(text[:2], 16) & 1


def _is_interface(text: str) -> bool:
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "/" in text and not address.is_multicast and not address.is_unspecified


def _is_route(text: str) -> bool:
    try:
        Route.parse(text)
    except ValueError:
        return False
    return True


@attrs.frozen
class PortSpec:
    """What one end of a network device is plugged into."""

    kind: PortKind = "tun"
    netns: str | None = attrs.field(default=None, validator=must(FILE_NAME.fullmatch, "the name of a namespace"))
    """A namespace that exists already and is never deleted; by default the host's own, made and deleted."""
    ifname: str = attrs.field(
        default="vnet0",
        validator=must(
            lambda v: len(v) < 16 and FILE_NAME.fullmatch(v), "the name of an interface, at most 15 characters"
        ),
    )
    addresses: tuple[str, ...] = attrs.field(
        default=(),
        validator=must(lambda v: all(map(_is_interface, v)), "addresses with their prefix, such as 198.18.0.1/24"),
    )
    routes: tuple[str, ...] = attrs.field(
        default=(),
        validator=must(lambda v: all(map(_is_route, v)), "routes such as 198.18.1.0/24 via 198.18.0.1"),
    )
    """Where else than to its own networks packets go out of the interface."""
    forward: bool = False
    """Whether the namespace routes packets that come in here on to others; IPv6 from everywhere then."""
    txqueuelen: int = attrs.field(default=1000, validator=must(lambda v: 1 <= v <= 1 << 20, "1 to 1048576 packets"))

    def netns_of(self, system: str, host: str) -> str | None:
        """Its namespace on ``host`` of that system; None for a port that needs none."""
        return None if self.kind == "memory" else self.netns or f"{system}-{host}"


@attrs.frozen
class NetSpec(PeerSpec):
    """A network device."""

    mac: str | None = attrs.field(
        default=None, validator=must(_is_mac, "a unicast MAC address, such as 02:00:00:00:00:01")
    )
    """The address of the driver's interface."""
    peer_mac: str | None = attrs.field(
        default=None, validator=must(_is_mac, "a unicast MAC address, such as 02:00:00:00:00:02")
    )
    """The address of the interface at the device's end."""
    mtu: int = attrs.field(default=1500, validator=must(lambda v: 68 <= v <= 65521, "68 to 65521 bytes"))
    rx_buffer: int | None = attrs.field(
        default=None, validator=must(lambda v: 64 <= v <= 1 << 20, "64 to 1048576 bytes")
    )
    """Bytes of the driver's receive buffers; by default each holds any frame."""
    queue_pairs: int = attrs.field(default=1, validator=must(lambda v: 1 <= v <= 64, "1 to 64 pairs of queues"))
    """Pairs of a receive and a transmit queue that device and interfaces have."""
    speed: int | None = attrs.field(
        default=None, validator=must(lambda v: 1 <= v <= SPEED_MAX, f"a speed in Mbit/s, 1 to {SPEED_MAX}")
    )
    """What the device says it has, in Mbit/s."""
    duplex: Literal["full", "half"] | None = None
    promisc: bool = False
    """Whether the driver wants everything, whoever it is for."""
    vlans: tuple[int, ...] = attrs.field(
        default=(), validator=must(lambda v: all(0 <= i <= VID_MAX for i in v), f"VLANs, 0 to {VID_MAX}")
    )
    """The VLANs that the driver wants besides those that its interface has."""
    driver: PortSpec = PortSpec()
    device: PortSpec = PortSpec()

    @property
    def queue_count(self) -> tuple[str, int]:
        return "queue_pairs", 2 * self.queue_pairs + 1

    @property
    def wishes(self) -> Wishes:
        """How the driver is to use the device, to begin with."""
        vlans = frozenset(self.vlans) if self.vlans else None
        return Wishes(reception=Reception(promisc=self.promisc, allmulti=True, vlans=vlans))

    def namespaces(self, system: str, hosts: tuple[str, str]) -> Iterator[Netns]:
        for _, host, port in self.ports(hosts):
            name = port.netns_of(system, host)
            if name is not None:
                yield Netns(host, name, port.netns is None)

    def clash(self) -> tuple[str, object, str] | None:
        if self.mode == "mediated":
            for key in ("queue_pairs", "speed", "duplex", "promisc", "vlans"):
                value = getattr(self, key)
                if value != attrs.fields_dict(NetSpec)[key].default:
                    shown = list(value) if isinstance(value, tuple) else value
                    return key, shown, "mode mediated has one pair of queues, no control queue and no link of its own"
        if self.queue_pairs > 1 and (off := {name.upper() for name in self.features_off} & {"CTRL_VQ", "MQ"}):
            return "queue_pairs", self.queue_pairs, f"several pairs need {', '.join(sorted(off))}, which is off"
        if self.mac and self.peer_mac and self.mac.lower() == self.peer_mac.lower():
            return "peer_mac", self.peer_mac, "both ends have the same address"
        return super().clash()

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for side, host, port in self.ports(hosts):
            if port.kind != "memory":
                yield f"{side}.ifname", (port.netns or f"host {host}", port.ifname)

    def ports(self, hosts: tuple[str, str]) -> Iterator[tuple[Side, str, PortSpec]]:
        """The ports that are of this system: side, host, and the port."""
        yield "driver", hosts[0], self.driver
        if not self.foreign:
            yield "device", hosts[1], self.device

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        if self.foreign:
            return
        (_, root, port), (_, endpoint, peer) = self.ports(hosts)
        for here, at, there in ((root, port, peer), (endpoint, peer, port)):
            netns = at.netns_of(system, here)
            if netns is not None:
                targets = [ip_interface(text).ip for text in there.addresses]
                yield from (f"ip netns exec {netns} ping {target}    # {name}, from {here}" for target in targets)
                # `vnet exec` enters a host's own namespace; the device's end within one host has no name there.
                for target in targets[:1] if at.netns is None and self.host in (None, here) else ():
                    url = f"[{target}]" if target.version == 6 else str(target)
                    yield f"vnet exec{'' if system == 'vnet' else f' --name {system}'} {here} -- curl http://{url}/"

    def macs(self, index: int) -> tuple[bytes, bytes]:
        """The MAC addresses at the driver's and at the device's end of the ``index``-th device of a system."""
        given = (self.mac, self.peer_mac)
        made = (bytes((2, 0, 0, 0, index & 0xFF, end)) for end in (1, 2))
        first, second = (
            bytes.fromhex(text.replace(":", "")) if text else mac for text, mac in zip(given, made, strict=True)
        )
        return first, second


def net_specs(topology: HasDevices) -> dict[str, NetSpec]:
    """The network devices of a topology."""
    return {name: spec for name, spec in topology.devices.items() if isinstance(spec, NetSpec)}


class HasDevices(Protocol):
    """A topology."""

    @property
    def devices(self) -> Mapping[str, DeviceSpec]: ...


@attrs.frozen(eq=False)
class NetEnd:
    """One end: its port, and the settings of the driver that uses it."""

    spec: PortSpec
    netns: str | None
    settings: NetSettings | NetPlug

    @property
    def port(self) -> PacketPort:
        return self.settings.port

    @property
    def live(self) -> bool:
        return self.port.running

    def figures(self, queue: int) -> Figures:
        """Even queues are receiveqs, odd ones transmitqs, as the driver sees it (VIRTIO 1.4 section 5.1.2)."""
        figures = self.settings.figures
        if queue == figures.control_index:
            control = figures.control
            return Figures(control.commands, control.bytes, {"refused": control.refused} if control.refused else {})
        if queue >= 2 * len(figures.pairs):
            return Figures(0, 0, {})
        pair = figures.pairs[queue // 2]
        out_of_port = isinstance(self.settings, NetSettings) != bool(queue & 1)
        traffic = pair.received if out_of_port else pair.sent
        return Figures(traffic.packets, traffic.bytes, traffic.drops)

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        for number, pair in enumerate(self.settings.figures.pairs, 1):
            which = "" if number == 1 else str(number)
            yield f"sent{which}", pair.sent.drops
            yield f"received{which}", pair.received.drops
        yield "port", self.port.statistics().drops

    def describe(self) -> dict[str, object]:
        figures = self.port.statistics()
        return {
            "network": describe_plug(self.settings)
            if isinstance(self.settings, NetPlug)
            else describe_settings(self.settings),
            "kind": self.spec.kind,
            "netns": self.netns,
            "ifname": self.spec.ifname if self.netns is not None else None,
            "addresses": list(self.spec.addresses),
            "live": self.port.live,
            "lost": self.port.lost,
            "caps": attrs.asdict(self.port.caps),
            **attrs.asdict(figures, filter=attrs.filters.exclude("drops")),
            "drops": dict(figures.drops),
        }


OpenPort = Callable[[PortSpec, PortConfig], AbstractAsyncContextManager[PacketPort]]


@asynccontextmanager
async def open_port(
    spec: PortSpec, config: PortConfig, poller: Poller | None = None, watches: Watches | None = None
) -> AsyncIterator[PacketPort]:
    """The port a topology asks for."""
    if spec.kind == "memory":
        yield MemoryPort(ALL_OFFLOADS, queues=config.queues)
    else:
        async with open_packet_port(config, poller, watches) as port:
            yield port


@asynccontextmanager
async def open_net(context: OpenContext, opener: OpenPort | None = None) -> AsyncIterator[tuple[NetEnd, NetEnd]]:
    """Both ends of a network device, in namespaces that are made where they are not named.

    Raises ConfigError, PrivilegeError, OSError.
    """
    spec = context.spec
    assert isinstance(spec, NetSpec)
    async with _open_ports(context, spec, opener) as ports:
        (driver, driver_netns, driver_port), (device, device_netns, device_port) = ports
        plug: NetSettings | NetPlug
        if spec.mode == "mediated":
            plug = NetSettings(device_port, spec.local_features(context.supported), rx_buffer=spec.rx_buffer)
        else:
            plug = _plug(spec, device_port, spec.macs(context.index)[0], context.features)
        yield (
            NetEnd(driver, driver_netns, _settings(spec, driver_port, context.features)),
            NetEnd(device, device_netns, plug),
        )


@asynccontextmanager
async def _open_ports(
    context: OpenContext, spec: NetSpec, opener: OpenPort | None
) -> AsyncIterator[list[tuple[PortSpec, str | None, PacketPort]]]:
    """Those that are of this system, driver's first, each with its namespace."""
    macs = spec.macs(context.index)
    opener = opener or partial(open_port, poller=context.poller, watches=context.watches)
    async with AsyncExitStack() as stack:
        ports = []
        for own, (side, host, port) in enumerate(spec.ports(context.hosts)):
            netns = port.netns_of(context.system, host)
            if netns is not None:
                _check_netns(port, f"devices.{context.name}.{side}.netns")
                await stack.enter_async_context(open_netns(netns))
            peer = macs[1 - own] if not spec.foreign or spec.peer_mac else None
            config = _port_config(spec, port, netns, macs[own], peer)
            with _refused_at(f"devices.{context.name}", side):
                ports.append((port, netns, await stack.enter_async_context(opener(port, config))))
        yield ports


@contextmanager
def _refused_at(device: str, side: Side) -> Iterator[None]:
    """Raise a setting of a port that the kernel refuses as a ConfigError with its place in the topology."""
    try:
        yield
    except SettingRefused as exc:
        # The MTU is the device's: both of its ends have the same.
        path = ".".join(filter(None, (device, "" if exc.field == "mtu" else side, exc.field)))
        raise ConfigError("topology", path, exc.value, exc.why) from None


def _settings(spec: NetSpec, port: PacketPort, features: int) -> NetSettings:
    return NetSettings(port, features, rx_buffer=spec.rx_buffer, wishes=spec.wishes)


@asynccontextmanager
async def open_net_driver(context: OpenContext, opener: OpenPort | None = None) -> AsyncIterator[NetEnd]:
    """The driver's end alone; it learns the device's address where that is not given.

    Raises ConfigError, PrivilegeError, OSError.
    """
    spec = context.spec
    assert isinstance(spec, NetSpec)
    async with _open_ports(context, spec, opener) as [(port, netns, opened)]:
        yield NetEnd(port, netns, _settings(spec, opened, context.features))


OWN_FEATURES = mask((F.MAC, F.MTU, F.STATUS, F.SPEED_DUPLEX, F.CTRL_VQ, *COMMANDED))
"""What a configuration space or a control queue belongs to."""


def own_net_config(context: OpenContext) -> OwnConfig:
    """What back ends leave to their front end: the addresses and the MTU of the topology."""
    spec = context.spec
    assert isinstance(spec, NetSpec)
    offered = mask((F.MAC, F.MTU, F.STATUS)) & context.features
    fields = NetConfig(spec.macs(context.index)[0], LINK_UP, spec.mtu).emit()
    return OwnConfig(offered, OWN_FEATURES, fields, spec.mtu if offered >> F.MTU & 1 else None)


@asynccontextmanager
async def open_net_device(context: OpenContext) -> AsyncIterator[NetEnd]:
    """The device's end alone. Its port is in our own namespace where none is named, and learns the driver's address
    where that is not given. Raises ConfigError, PrivilegeError, OSError.
    """
    spec = context.spec
    assert isinstance(spec, NetSpec)
    port = spec.device
    _check_netns(port, "device.netns")
    driver_mac, mac = spec.macs(context.index)
    config = _port_config(spec, port, port.netns, mac, driver_mac if spec.mac else None)
    async with AsyncExitStack() as stack:
        with _refused_at("", "device"):
            opened = await stack.enter_async_context(open_port(port, config, context.poller, context.watches))
        plug = attrs.evolve(_plug(spec, opened, driver_mac, context.features), control=False)
        yield NetEnd(port, port.netns, plug)


def _plug(spec: NetSpec, port: PacketPort, mac: bytes, features: int) -> NetPlug:
    return NetPlug(
        port,
        mac,
        spec.mtu,
        features,
        spec.queue_size,
        pairs=spec.queue_pairs,
        speed=spec.speed,
        duplex=Duplex[(spec.duplex or "unknown").upper()],
    )


def _check_netns(port: PortSpec, path: str) -> None:
    if port.netns is not None and not has_netns(port.netns):
        why = f"there is no such namespace; try: ip netns add {port.netns}"
        raise ConfigError("topology", path, port.netns, why)


def _port_config(spec: NetSpec, port: PortSpec, netns: str | None, mac: bytes, peer_mac: bytes | None) -> PortConfig:
    return PortConfig(
        kind="tap" if port.kind == "tap" else "tun",
        netns=netns,
        ifname=port.ifname,
        addresses=tuple(ip_interface(address) for address in port.addresses),
        mac=mac,
        peer_mac=peer_mac,
        mtu=spec.mtu,
        txqueuelen=port.txqueuelen,
        routes=tuple(map(Route.parse, port.routes)),
        forward=port.forward,
        queues=spec.queue_pairs,
    )


def mediate_net(context: OpenContext, names: tuple[str, str]) -> NetMediator:
    """The cable between the two devices of a mediated one."""
    spec = context.spec
    assert isinstance(spec, NetSpec)
    offered = (context.features, spec.local_features(context.supported))
    plugs = {
        name: MediatedNetPlug(mac, features, spec.queue_size)
        for name, mac, features in zip(names, spec.macs(context.index), offered, strict=True)
    }
    return NetMediator(plugs, spec.mtu)
