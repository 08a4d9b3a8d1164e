"""What a topology gives for a network device and the ports at its ends, and which values go together."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Literal, Protocol

import attrs

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE
from drivers.devices.net.control import VID_MAX
from drivers.devices.net.driver.driver import buffer_sizes, host_memory
from drivers.devices.net.driver.station import Wishes
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import SPEED_MAX, TABLE
from drivers.devices.net.layout import NetFeature as F
from drivers.registry import DEVICES
from vnet.ends.base import Side
from vnet.linux.netns import IPV6_MIN_MTU, Route
from vnet.spec import FILE_NAME, DeviceSpec, Netns, PeerSpec, Problem, must

__all__ = ["NetSpec", "PortKind", "PortSpec", "net_specs"]

PortKind = Literal["tun", "tap", "memory"]
NEEDED: Mapping[str, tuple[str, frozenset[str]]] = {
    "queue_pairs": ("several pairs need", frozenset({"CTRL_VQ", "MQ"})),
    "speed": ("a speed needs", frozenset({"SPEED_DUPLEX"})),
    "duplex": ("duplex needs", frozenset({"SPEED_DUPLEX"})),
    "mac": ("an address needs", frozenset({"MAC"})),
}
"""Keys that mean nothing to a device without these features, and how to say so."""


def _is_mac(text: str) -> bool:
    if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text.lower()) is None:
        return False
    return not int(text[:2], 16) & 1 and text != "00:00:00:00:00:00"


def _is_interface(text: str) -> bool:
    """Whether the kernel gives an interface this address; a zone (%eth0) has no place in it."""
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        return False
    useless = address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback
    return "/" in text and "%" not in text and not useless and str(address.ip) != "255.255.255.255"


def _is_route(text: str) -> bool:
    try:
        Route.parse(text)
    except ValueError:
        return False
    return "%" not in text


def _is_reached(router: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether an interface with these networks reaches the router directly."""
    return router.is_link_local or any(
        router in network and (network.num_addresses <= 2 or router not in (network[0], network[-1]))
        for network in networks
        if network.version == router.version
    )


NAMES_TAKEN = ("lo", "all", "default")
"""Names that the kernel keeps to itself in every namespace."""
INTERFACE_ONLY = ("netns", "ifname", "routes", "forward", "txqueuelen")
"""Keys of a port that are about an interface."""


@attrs.frozen
class PortSpec:
    """What one end of a network device is plugged into."""

    kind: PortKind = "tun"
    netns: str | None = attrs.field(default=None, validator=must(FILE_NAME.fullmatch, "the name of a namespace"))
    """A namespace that exists already and is never deleted; by default the host's own, made and deleted."""
    ifname: str = attrs.field(
        default="vnet0",
        validator=must(
            lambda v: len(v) < 16 and FILE_NAME.fullmatch(v) and v not in NAMES_TAKEN,
            f"the name of an interface, at most 15 characters, and none of {', '.join(NAMES_TAKEN)}",
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

    def problem(self, mtu: int) -> Problem | None:
        """As `DeviceSpec.problem`, of the port of a device with this MTU."""
        if self.kind == "memory":
            for field in attrs.fields(PortSpec):
                given = getattr(self, field.name)
                if field.name in INTERFACE_ONLY and given != field.default:
                    shown = list(given) if isinstance(given, tuple) else given
                    return field.name, shown, "a port in memory has no interface and no namespace"
        networks = [ip_interface(text) for text in self.addresses]
        if mtu < IPV6_MIN_MTU:
            for key, texts in (("addresses", self.addresses), ("routes", self.routes)):
                if any(":" in text for text in texts):
                    return key, list(texts), f"IPv6 needs an MTU of {IPV6_MIN_MTU} bytes, and this device has {mtu}"
        for index, route in enumerate(map(Route.parse, self.routes)):
            if route.via is not None:
                family = [net for net in networks if net.version == route.via.version]
                reached = [net.network for net in family] + [r.network for r in map(Route.parse, self.routes[:index])]
                if family and (route.via in [net.ip for net in family] or not _is_reached(route.via, reached)):
                    why = f"{route.via} is no other host in a network of the interface's addresses"
                    return f"routes[{index}]", self.routes[index], why
        return None

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

    def memory(self) -> int:
        rx_buffer = None if self.foreign else self.rx_buffer  # another program's may not have MRG_RXBUF
        return host_memory(TABLE.prune(self.features), self.mtu, self.queue_size, self.queue_pairs, rx_buffer)

    def local_memory(self) -> int:
        features = TABLE.prune(self.local_features(DEVICES[self.type].supported))
        return host_memory(features, self.mtu, self.queue_size, 1, self.rx_buffer)

    def clash(self) -> Problem | None:
        if self.mode == "mediated":
            for key in ("queue_pairs", "speed", "duplex", "promisc", "vlans"):
                value = getattr(self, key)
                if value != attrs.fields_dict(NetSpec)[key].default:
                    shown = list(value) if isinstance(value, tuple) else value
                    return key, shown, "mode mediated has one pair of queues, no control queue and no link of its own"
        off = {name.upper() for name in self.features_off}
        for key, (words, needed) in NEEDED.items():
            given = getattr(self, key)
            if given != attrs.fields_dict(NetSpec)[key].default and (missing := off & needed):
                return key, given, f"{words} {', '.join(sorted(missing))}, which is off"
        if self.mac and self.peer_mac and self.mac.lower() == self.peer_mac.lower():
            return "peer_mac", self.peer_mac, "both ends have the same address"
        return self._port_problem() or super().clash()

    def shortage(self) -> Problem | None:
        """Buffers in which not every frame finds room, too."""
        features = TABLE.prune(self.features)
        receive, transmit = buffer_sizes(features, self.mtu if features >> F.MTU & 1 else None, None)
        if min(receive, transmit) < HEADER_SIZE + ETH_HLEN + self.mtu:
            return "mtu", self.mtu, "without MTU, which is off, a driver expects 1500 bytes at most"
        frame = HEADER_SIZE + ETH_HLEN + self.mtu
        if self.rx_buffer is not None and self.rx_buffer * self.queue_size < frame:
            return "rx_buffer", self.rx_buffer, f"{self.queue_size} such buffers do not hold a frame of {frame} bytes"
        local = self.mode == "mediated" and "MRG_RXBUF" not in map(str.upper, self.local_features_off)
        if self.rx_buffer is not None and not local and "MRG_RXBUF" in map(str.upper, self.features_off):
            return "rx_buffer", self.rx_buffer, "buffers of another size need MRG_RXBUF, which is off"
        return super().shortage()

    def _port_problem(self) -> Problem | None:
        ports = [(side, port) for side, _, port in self.ports(("", ""))]
        for side, port in ports:
            problem = port.problem(self.mtu)
            if problem is not None:
                return f"{side}.{problem[0]}", *problem[1:]
        own = {ip_interface(text).ip for text in self.driver.addresses}
        for text in self.device.addresses:
            if ip_interface(text).ip in own:
                return "device.addresses", list(self.device.addresses), f"the driver's end has {text} already"
        return None

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for side, host, port in self.ports(hosts):
            if port.kind != "memory":
                yield f"{side}.ifname", ("interface", port.netns or f"host {host}", port.ifname)
        yield from super().claims(hosts)

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
        if first == second:  # the one that was given is the one that would be made for the other end
            third = bytes((*first[:5], 3))
            return (first, third) if self.mac else (third, second)
        return first, second


def net_specs(topology: HasDevices) -> dict[str, NetSpec]:
    """The network devices of a topology."""
    return {name: spec for name, spec in topology.devices.items() if isinstance(spec, NetSpec)}


class HasDevices(Protocol):
    """A topology."""

    @property
    def devices(self) -> Mapping[str, DeviceSpec]: ...
