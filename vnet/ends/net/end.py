"""The ends of a network device: a packet port at each end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_interface

import attrs

from drivers.carriers.vhost_user import OwnConfig
from drivers.contracts.ports import PacketPort
from drivers.devices.net import MediatedNetPlug, NetMediator, NetPlug
from drivers.devices.net.driver.driver import NetSettings
from drivers.devices.net.layout import COMMANDED, LINK_UP, Duplex, NetConfig
from drivers.devices.net.layout import NetFeature as F
from rings.features import mask
from vnet.ends.base import NO_FIGURES, Figures, OpenContext, SideName, traffic_figures
from vnet.ends.net.report import plug_view, settings_view
from vnet.ends.net.spec import COMMANDED_ON_REQUEST, NetSpec, PortSpec
from vnet.errors import ConfigError, SettingRefused
from vnet.linux.netns import Route, has_netns, open_netns
from vnet.ports.packet.interface_port import InterfacePort
from vnet.ports.packet.memory import MemoryPort
from vnet.ports.packet.open import PortConfig
from vnet.views.ends import EndView, PortView

__all__ = [
    "NetEnd",
    "mediate_net",
    "memory_port",
    "open_net",
    "open_net_device",
    "open_net_driver",
    "own_net_config",
]


@attrs.frozen(eq=False)
class NetEnd:
    """One end: its port, and the argument of the driver or device that uses the port."""

    fixed = ""
    requests = None
    units = None
    spec: PortSpec
    netns: str | None
    """Name of the port's namespace; None: our own, or no interface."""
    settings: NetSettings | NetPlug

    @property
    def port(self) -> PacketPort:
        return self.settings.port

    @property
    def live(self) -> bool:
        return self.settings.liveness.live

    def watch(self, changed: Callable[[], object]) -> None:
        self.settings.liveness.watch(changed)

    def figures(self, queue: int) -> Figures:
        """Return the figures of a queue: receiveqs are even, transmitqs odd (VIRTIO 1.4 section 5.1.2)."""
        figures = self.settings.figures
        if queue == figures.control_index:
            control = figures.control
            return Figures(control.commands, control.bytes, {"refused": control.refused} if control.refused else {})
        if queue >= 2 * len(figures.pairs):
            return NO_FIGURES
        pair = figures.pairs[queue // 2]
        out_of_port = isinstance(self.settings, NetSettings) != bool(queue & 1)
        return traffic_figures(pair.received if out_of_port else pair.sent)

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        for number, pair in enumerate(self.settings.figures.pairs, 1):
            which = "" if number == 1 else str(number)
            yield f"sent{which}", pair.sent.drops
            yield f"received{which}", pair.received.drops
        yield "port", self.port.statistics().drops

    def snapshot(self) -> EndView:
        port, figures = self.port, self.port.statistics()
        return PortView(
            self.spec.kind,
            port.live,
            network=plug_view(self.settings) if isinstance(self.settings, NetPlug) else settings_view(self.settings),
            netns=self.netns,
            ifname=port.ifname if isinstance(port, InterfacePort) else None,
            addresses=tuple(map(str, self.spec.addresses)),
            lost=port.lost,
            caps=attrs.asdict(port.caps),
            rx_packets=figures.rx_packets,
            rx_bytes=figures.rx_bytes,
            tx_packets=figures.tx_packets,
            tx_bytes=figures.tx_bytes,
            drops=dict(figures.drops),
        )


def memory_port(end: NetEnd) -> MemoryPort:
    """Return the in-memory port of an end. Raises TypeError if its port is of another kind."""
    if not isinstance(end.port, MemoryPort):
        raise TypeError(f"the port is no memory port but of kind {end.spec.kind}")
    return end.port


@asynccontextmanager
async def open_net(context: OpenContext[NetSpec]) -> AsyncIterator[tuple[NetEnd, NetEnd]]:
    """Open both ends of a network device. Namespaces without a name in the topology are made.

    Raises ConfigError, PrivilegeError, OSError.
    """
    spec = context.spec
    async with _open_ports(context) as [(driver, driver_netns, driver_port), (device, device_netns, device_port)]:
        yield (
            NetEnd(driver, driver_netns, _settings(spec, driver_port, context.features)),
            NetEnd(device, device_netns, _device_settings(context, device_port)),
        )


@asynccontextmanager
async def _open_ports(context: OpenContext[NetSpec]) -> AsyncIterator[list[tuple[PortSpec, str | None, PacketPort]]]:
    """Open the ports of this system, the driver's first, each with its namespace."""
    spec, macs = context.spec, context.spec.macs(context.index)
    # A device in another process has its own MAC address, and so has a driver without feature MAC.
    known = not spec.foreign or spec.peer_mac is not None, bool(context.features >> F.MAC & 1)
    async with AsyncExitStack() as stack:
        ports = []
        for side, host, port in spec.ports(context.hosts):
            own = side == "device"
            netns = port.netns_of(context.system, host)
            peer = macs[1 - own] if known[own] else None
            opening = _open_port(context, side, port, netns, macs[own], peer)
            ports.append((port, netns, await stack.enter_async_context(opening)))
        yield ports


@asynccontextmanager
async def _open_port(
    context: OpenContext[NetSpec],
    side: SideName,
    port: PortSpec,
    netns: str | None,
    mac: bytes | None,
    peer_mac: bytes | None,
) -> AsyncIterator[PacketPort]:
    """Open a port in the namespace ``netns``, which is made unless the topology names it."""
    where = f"devices.{context.name}"
    if port.netns is not None and not has_netns(port.netns):
        why = f"must be an existing namespace; try: ip netns add {port.netns}"
        raise ConfigError("topology", f"{where}.{side}.netns", port.netns, why)
    config = PortConfig(
        kind="tap" if port.kind == "tap" else "tun",
        netns=netns,
        ifname=port.ifname,
        addresses=tuple(ip_interface(address) for address in port.addresses),
        mac=mac,
        peer_mac=peer_mac,
        mtu=context.spec.mtu,
        txqueuelen=port.txqueuelen,
        routes=tuple(map(Route.parse, port.routes)),
        forward=port.forward,
        queues=context.spec.queue_pairs,
    )
    async with AsyncExitStack() as stack:
        if netns is not None and port.netns is None:
            await stack.enter_async_context(open_netns(netns))
        try:
            opened = await stack.enter_async_context(port.open(config, context.poller, context.watches))
        except SettingRefused as exc:
            # The MTU is a key of the device: both of its ends use it.
            path = f"{where}.mtu" if exc.field == "mtu" else f"{where}.{side}.{exc.field}"
            raise ConfigError("topology", path, exc.value, exc.why) from None
        yield opened


def _device_settings(context: OpenContext[NetSpec], port: PacketPort) -> NetSettings | NetPlug:
    """Return the settings of the device's end in a topology; in mediated mode, those of the local driver."""
    spec = context.spec
    if spec.mode == "mediated":
        return NetSettings(port, spec.local_features, rx_buffer=spec.rx_buffer)
    return _plug(spec, port, spec.macs(context.index)[0], context.features)


def _settings(spec: NetSpec, port: PacketPort, features: int) -> NetSettings:
    return NetSettings(port, features, rx_buffer=spec.rx_buffer, request=spec.request)


@asynccontextmanager
async def open_net_driver(context: OpenContext[NetSpec]) -> AsyncIterator[NetEnd]:
    """Open only the driver's end. Its port learns the device's MAC address if the topology gives none.

    Raises ConfigError, PrivilegeError, OSError.
    """
    spec = context.spec
    async with _open_ports(context) as [(port, netns, opened)]:
        yield NetEnd(port, netns, _settings(spec, opened, context.features))


OWN_FEATURES = mask((F.MAC, F.MTU, F.STATUS, F.SPEED_DUPLEX, F.CTRL_VQ, *COMMANDED))
"""Feature bits that need a configuration space or a control queue."""


def own_net_config(context: OpenContext[NetSpec]) -> OwnConfig:
    """Return the configuration for back ends without a configuration space: MAC address, link status and MTU."""
    spec = context.spec
    offered = mask((F.MAC, F.MTU, F.STATUS)) & context.features
    fields = NetConfig(spec.macs(context.index)[0], LINK_UP, spec.mtu).emit()
    return OwnConfig(offered, OWN_FEATURES, fields, spec.mtu if offered >> F.MTU & 1 else None)


@asynccontextmanager
async def open_net_device(context: OpenContext[NetSpec]) -> AsyncIterator[NetEnd]:
    """Open only the device's end. Outside a topology, its port is in our own namespace if none is given, and learns
    the driver's MAC address if none is given.

    Raises ConfigError, PrivilegeError, OSError.
    """
    spec, port = context.spec, context.spec.device
    if context.in_topology:
        async with _open_ports(context) as [(port, netns, opened)]:
            yield NetEnd(port, netns, _device_settings(context, opened))
        return
    if spec.link is None and (kept := [name for name in spec.features_on if name.upper() in COMMANDED_ON_REQUEST]):
        why = f"must be without {', '.join(kept)}: the front end has the control queue; --vfio-user serves it"
        raise ConfigError("", "features_on", list(spec.features_on), why)
    driver_mac, mac = spec.macs(context.index)
    # TAPs of several processes may be in one bridge: each keeps the kernel's random address if none is given.
    own = None if port.kind == "tap" and not spec.peer_mac else mac
    async with _open_port(context, "device", port, port.netns, own, driver_mac if spec.mac else None) as opened:
        # A vhost-user front end serves the control queue itself; a vfio-user client's driver sees the function's.
        control = spec.link is not None
        plug = attrs.evolve(_plug(spec, opened, driver_mac, context.features), control=control)
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


def mediate_net(context: OpenContext[NetSpec], names: tuple[str, str]) -> NetMediator:
    """Return the mediator between the two devices with these ``names``."""
    spec = context.spec
    offered = (context.features, spec.local_features)
    plugs = {
        name: MediatedNetPlug(mac, features, spec.queue_size)
        for name, mac, features in zip(names, spec.macs(context.index), offered, strict=True)
    }
    return NetMediator(plugs, spec.mtu)
