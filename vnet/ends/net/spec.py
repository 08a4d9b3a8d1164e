"""Records of a network device and its two ports in a topology, and their checks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Literal, Self

import attrs

from drivers.contracts.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, PacketPort
from drivers.devices.net import NET
from drivers.devices.net.control import VID_MAX
from drivers.devices.net.driver.driver import buffer_sizes, host_memory
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import CONTROLLED, SPEED_MAX, TABLE
from drivers.devices.net.layout import NetFeature as F
from rings.features import bits
from vnet.ends.base import SideName
from vnet.errors import FieldError, Keys
from vnet.linux.netns import IPV6_MIN_MTU, Route
from vnet.linux.poller import Poller
from vnet.names import FILE_NAME, system_option
from vnet.ports.packet.interface_watch import Watches
from vnet.ports.packet.memory import MemoryPort
from vnet.ports.packet.open import PortConfig, open_packet_port
from vnet.spec import DeviceSpec, Netns, PeerSpec, must

__all__ = ["COMMANDED_ON_REQUEST", "MTU", "NetSpec", "PortKind", "PortSpec", "mac_of", "net_specs"]

PortKind = Literal["tun", "tap", "memory"]
"""Kind of a packet port."""
NEEDED: Mapping[str, frozenset[str]] = {
    "queue_pairs": frozenset({"CTRL_VQ", "MQ"}),
    "speed": frozenset({"SPEED_DUPLEX"}),
    "duplex": frozenset({"SPEED_DUPLEX"}),
    "mac": frozenset({"MAC"}),
}
"""Features that a device must offer for a key to have an effect."""

COMMANDED_ON_REQUEST = frozenset(TABLE.name(bit) for bit in bits(CONTROLLED & NET.on_request))
"""Names of features that a device has only on request, and that need a control queue."""

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE | re.ASCII)
MTU = range(68, 65522)
"""MTUs in bytes."""


def mac_of(text: str, *, group: bool = False) -> bytes | None:
    """Return the unicast or group MAC address in ``text``; None if it is none."""
    mac = bytes.fromhex(text.replace(":", "")) if MAC.fullmatch(text) else bytes(6)
    return mac if any(mac) and bool(mac[0] & 1) is group else None


def _is_interface(text: str) -> bool:
    """Return whether the kernel accepts this address for an interface; a zone (%eth0) is not part of it."""
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        return False
    unusable = address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback
    return "/" in text and "%" not in text and not unusable and str(address.ip) != "255.255.255.255"


def _is_route(text: str) -> bool:
    try:
        Route.parse(text)
    except ValueError:
        return False
    return "%" not in text


def _is_reached(router: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Return whether an interface in these networks reaches the router directly."""
    return router.is_link_local or any(
        router in network and (network.num_addresses <= 2 or router not in (network[0], network[-1]))
        for network in networks
        if network.version == router.version
    )


RESERVED_NAMES = ("lo", "all", "default")
"""Interface names that the kernel reserves in every namespace."""
INTERFACE_ONLY = ("netns", "ifname", "routes", "forward", "txqueuelen")
"""Keys of a port that only apply to a network interface."""


@attrs.frozen
class PortSpec:
    """The packet port at one end of a network device."""

    kind: PortKind = "tun"
    """Kind of port: a TUN interface (IP packets), a TAP interface (Ethernet frames), or memory, for the Python API."""
    netns: str | None = attrs.field(default=None, validator=must(FILE_NAME.fullmatch, "the name of a namespace"))
    """Existing network namespace for the interface; it is never deleted. Default: SYSTEM-HOST, made and deleted with
    the system."""
    ifname: str = attrs.field(
        default="vnet0",
        validator=must(
            lambda v: len(v) < 16 and FILE_NAME.fullmatch(v) and v not in RESERVED_NAMES,
            f"an interface name of at most 15 characters, none of {', '.join(RESERVED_NAMES)}",
        ),
    )
    """Name of the interface in its namespace."""
    addresses: tuple[str, ...] = attrs.field(
        default=(),
        validator=must(lambda v: all(map(_is_interface, v)), "addresses with prefix length, such as 198.18.0.1/24"),
    )
    """IPv4 and IPv6 addresses of the interface, each with its prefix length."""
    routes: tuple[str, ...] = attrs.field(
        default=(),
        validator=must(lambda v: all(map(_is_route, v)), "routes such as 198.18.1.0/24 via 198.18.0.1"),
    )
    """Routes through the interface, as NETWORK or NETWORK via ROUTER, besides those to its own networks."""
    forward: bool = False
    """Whether the namespace forwards packets that arrive at this interface. IPv6 is then forwarded from all of them."""
    txqueuelen: int = attrs.field(
        default=1000, validator=must(lambda v: 1 <= v <= 1 << 20, "between 1 and 1048576 (packets)")
    )
    """Length of the interface's transmit queue in packets."""

    def in_memory(self) -> PortSpec:
        """Return the port without an interface."""
        return self if self.kind == "memory" else PortSpec("memory")

    def problems(self, mtu: int) -> Iterator[FieldError]:
        """Yield the invalid fields of the port of a device with this MTU."""
        if self.kind == "memory":
            for field in attrs.fields(PortSpec):
                given = getattr(self, field.name)
                if field.name in INTERFACE_ONLY and given != field.default:
                    shown = list(given) if isinstance(given, tuple) else given
                    why = "must be absent for a memory port: it has no interface"
                    yield FieldError((field.name,), shown, why)
        networks = [ip_interface(text) for text in self.addresses]
        if mtu < IPV6_MIN_MTU:
            for key, texts in (("addresses", self.addresses), ("routes", self.routes)):
                if any(":" in text for text in texts):
                    why = f"must be IPv4 only: IPv6 needs an MTU of {IPV6_MIN_MTU} bytes, and mtu is {mtu}"
                    yield FieldError((key,), list(texts), why)
        for index, route in enumerate(map(Route.parse, self.routes)):
            if route.via is not None:
                family = [net for net in networks if net.version == route.via.version]
                reached = [net.network for net in family] + [r.network for r in map(Route.parse, self.routes[:index])]
                if family and (route.via in [net.ip for net in family] or not _is_reached(route.via, reached)):
                    why = "must be via another host in a network of the interface"
                    yield FieldError(("routes", index), self.routes[index], why)

    @asynccontextmanager
    async def open(self, config: PortConfig, poller: Poller, watches: Watches | None) -> AsyncIterator[PacketPort]:
        """Open the port; ``config`` describes its interface. Raises PrivilegeError, SettingRefused, OSError."""
        if self.kind == "memory":
            yield MemoryPort(ALL_OFFLOADS, queues=config.queues)
        else:
            async with open_packet_port(config, poller, watches) as port:
                yield port

    def netns_of(self, system: str, host: str) -> str | None:
        """Return the name of the port's namespace on ``host``; None for a port without an interface."""
        return None if self.kind == "memory" else self.netns or f"{system}-{host}"


@attrs.frozen
class NetSpec(PeerSpec):
    """A network device."""

    mac: str | None = attrs.field(
        default=None, validator=must(mac_of, "a unicast MAC address, such as 02:00:00:00:00:01")
    )
    """MAC address of the driver's interface. Default: an address made from the device's index, with the last byte 1."""
    peer_mac: str | None = attrs.field(
        default=None, validator=must(mac_of, "a unicast MAC address, such as 02:00:00:00:00:02")
    )
    """MAC address of the interface at the device's end. Default: likewise, with the last byte 2."""
    mtu: int = attrs.field(
        default=1500, validator=must(MTU.__contains__, f"between {MTU.start} and {MTU.stop - 1} (bytes)")
    )
    """MTU of the device and of both interfaces in bytes."""
    rx_buffer: int | None = attrs.field(
        default=None, validator=must(lambda v: 64 <= v <= 1 << 20, "between 64 and 1048576 (bytes)")
    )
    """Size of the driver's receive buffers in bytes. Default: large enough for any frame."""
    queue_pairs: int = attrs.field(default=1, validator=must(lambda v: 1 <= v <= 64, "between 1 and 64"))
    """Number of pairs of a receive and a transmit queue, of the device and of the interfaces."""
    speed: int | None = attrs.field(
        default=None, validator=must(lambda v: 1 <= v <= SPEED_MAX, f"between 1 and {SPEED_MAX} (Mbit/s)")
    )
    """Link speed that the device reports, in Mbit/s; it does not limit throughput. Default: unknown."""
    duplex: Literal["full", "half"] | None = None
    """Duplex mode that the device reports. Default: unknown."""
    promisc: bool = False
    """Whether the driver starts in promiscuous mode: it receives frames for any address."""
    vlans: tuple[int, ...] = attrs.field(
        default=(), validator=must(lambda v: all(0 <= i <= VID_MAX for i in v), f"VLAN ids between 0 and {VID_MAX}")
    )
    """VLAN ids that the driver receives, besides those of its interface. Default: all VLANs."""
    driver: PortSpec = PortSpec()
    """Driver end: its port."""
    device: PortSpec = PortSpec()
    """Device end: its port."""

    virtio = NET

    @property
    def queue_count(self) -> tuple[str, int]:
        return "queue_pairs", 2 * self.queue_pairs + 1

    @property
    def request(self) -> NetRequest:
        """Settings that the driver requests at the start."""
        vlans = frozenset(self.vlans) if self.vlans else None
        return NetRequest(reception=Reception(promisc=self.promisc, allmulti=True, vlans=vlans))

    def namespaces(self, system: str, hosts: tuple[str, str]) -> Iterator[Netns]:
        for _, host, port in self.ports(hosts):
            name = port.netns_of(system, host)
            if name is not None:
                yield Netns(host, name, port.netns is None)

    def in_memory(self) -> Self:
        return attrs.evolve(self, driver=self.driver.in_memory(), device=self.device.in_memory())

    def memory(self) -> int:
        # A back end in another process may not offer MRG_RXBUF.
        rx_buffer = None if self.foreign else self.rx_buffer
        return host_memory(TABLE.prune(self.features), self.mtu, self.queue_size, self.queue_pairs, rx_buffer)

    def local_memory(self) -> int:
        features = TABLE.prune(self.local_features)
        return host_memory(features, self.mtu, self.queue_size, 1, self.rx_buffer)

    def problems(self) -> Iterator[FieldError]:
        if self.mode == "mediated":
            for key in ("queue_pairs", "speed", "duplex", "promisc", "vlans"):
                value = getattr(self, key)
                if value != attrs.fields_dict(NetSpec)[key].default:
                    shown = list(value) if isinstance(value, tuple) else value
                    why = "must be absent in mode mediated: it has one queue pair and no control queue"
                    yield FieldError((key,), shown, why)
            if hashed := sorted({*map(str.upper, self.features_on)} & COMMANDED_ON_REQUEST):
                why = f"must be without {', '.join(hashed)} in mode mediated: it has no control queue"
                yield FieldError(("features_on",), list(self.features_on), why)
        off = {name.upper() for name in self.features_off}
        if "RSS" in map(str.upper, self.features_on):
            off -= {"MQ"}  # several pairs need one of both
            if self.queue_pairs == 1:
                yield FieldError(("features_on",), list(self.features_on), "RSS requires queue_pairs above 1")
        for key, needed in NEEDED.items():
            given = getattr(self, key)
            if given != attrs.fields_dict(NetSpec)[key].default and (missing := off & needed):
                why = f"requires feature {', '.join(sorted(missing))}, which features_off removes"
                yield FieldError((key,), given, why)
        if self.mac and self.peer_mac and self.mac.lower() == self.peer_mac.lower():
            yield FieldError(("peer_mac",), self.peer_mac, "must differ from mac")
        for side, _, port in self.ports(("", "")):
            yield from (problem.inside(side) for problem in port.problems(self.mtu))
        own = {ip_interface(text).ip for text in self.driver.addresses}
        shared = next((text for text in self.device.addresses if ip_interface(text).ip in own), None)
        if shared is not None:
            why = f"must differ from driver.addresses ({shared})"
            yield FieldError(("device", "addresses"), list(self.device.addresses), why)
        yield from super().problems()

    def shortages(self) -> Iterator[FieldError]:
        """Yield the fields that keep the device from coming up, such as buffers too small for a frame."""
        features = TABLE.prune(self.features)
        receive, transmit = buffer_sizes(features, self.mtu if features >> F.MTU & 1 else None, None)
        if min(receive, transmit) < HEADER_SIZE + ETH_HLEN + self.mtu:
            yield FieldError(("mtu",), self.mtu, "must be at most 1500: features_off removes MTU")
        frame = HEADER_SIZE + ETH_HLEN + self.mtu
        if self.rx_buffer is not None and self.rx_buffer * self.queue_size < frame:
            why = f"must be larger: {self.queue_size} buffers must hold a frame of {frame} bytes"
            yield FieldError(("rx_buffer",), self.rx_buffer, why)
        local = self.mode == "mediated" and "MRG_RXBUF" not in map(str.upper, self.local_features_off)
        if self.rx_buffer is not None and not local and "MRG_RXBUF" in map(str.upper, self.features_off):
            why = "requires feature MRG_RXBUF, which features_off removes"
            yield FieldError(("rx_buffer",), self.rx_buffer, why)
        yield from super().shortages()

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[Keys, tuple[str, ...]]]:
        for side, host, port in self.ports(hosts):
            if port.kind != "memory":
                yield (side, "ifname"), ("interface", port.netns or f"host {host}", port.ifname)
        yield from super().claims(hosts)

    def ports(self, hosts: tuple[str, str]) -> Iterator[tuple[SideName, str, PortSpec]]:
        """Yield (side, host, port) for the ports of this system."""
        if self.driven:
            yield "driver", hosts[0], self.driver
        if not self.foreign:
            yield "device", hosts[1], self.device

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        if self.foreign or not self.driven:
            return
        (_, root, port), (_, endpoint, peer) = self.ports(hosts)
        for host, own, other in ((root, port, peer), (endpoint, peer, port)):
            netns = own.netns_of(system, host)
            if netns is not None:
                targets = [ip_interface(text).ip for text in other.addresses]
                yield from (f"ip netns exec {netns} ping {target}    # {name}, from {host}" for target in targets)
                # `vnet exec` only enters a host's own namespace; within one host, the device's end is in another one.
                for target in targets[:1] if own.netns is None and self.host in (None, host) else ():
                    url = f"[{target}]" if target.version == 6 else str(target)
                    yield f"vnet exec{system_option(system)} {host} -- curl http://{url}/"

    def macs(self, index: int) -> tuple[bytes, bytes]:
        """Return the MAC addresses at the driver's and the device's end of the system's ``index``-th device."""
        given = (self.mac, self.peer_mac)
        default = (bytes((2, 0, 0, 0, index & 0xFF, end)) for end in (1, 2))
        first, second = (mac_of(text or "") or mac for text, mac in zip(given, default, strict=True))
        if first == second:  # the given address is the default of the other end
            third = bytes((*first[:5], 3))
            return (first, third) if self.mac else (third, second)
        return first, second


def net_specs(devices: Mapping[str, DeviceSpec]) -> dict[str, NetSpec]:
    """Return the network devices among those of a topology, by name."""
    return {name: spec for name, spec in devices.items() if isinstance(spec, NetSpec)}
