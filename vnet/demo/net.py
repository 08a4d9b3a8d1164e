"""Demonstration of a network device: pings, TCP and UDP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from ipaddress import ip_interface
from typing import Protocol

import attrs

from vnet.demo.base import Demo, DemoSettings, Sections
from vnet.demo.memory_traffic import MemoryTraffic
from vnet.ends.net.end import PortKind, net_specs
from vnet.linux.netns import has_ipv6
from vnet.system.world import World
from vnet.topology import Topology
from vnet.topology.samples import built_in
from vnet.traffic.kernel import Plan, iperf3, iperf3_server, ping

__all__ = ["NET", "default_topology"]

PINGS = 10
"""Echo requests of a ping run."""
LARGE_PING = 60000
"""Bytes of a large echo request, which IP fragments."""
UDP_BITRATE = "50M"
"""Bits per second of a UDP run."""
UDP_BUFFER = "208K"
"""Largest socket buffer that every kernel grants: it loses fewest datagrams while the receiver is not scheduled."""


def default_topology(port: PortKind, transport: str = "pci", mode: str = "direct") -> Topology:
    """Return a topology with one network device with ports of this kind. Raises ConfigError."""
    keys = f"""
driver = {{ kind = "{port}", addresses = ["198.18.0.1/24", "2001:2::1/64"] }}
device = {{ kind = "{port}", addresses = ["198.18.0.2/24", "2001:2::2/64"] }}
"""
    return built_in("net", transport, keys, mode=mode)


class DemoTraffic(Protocol):
    """Maker of the runs of a demonstration."""

    def pings(self, count: int, sizes: tuple[int, ...]) -> list[Plan]:
        """Return a run of ``count`` echo requests per size in bytes, IP version and direction."""

    def flows(self, seconds: float, *, udp: bool) -> list[Plan]:
        """Return a TCP or UDP run of so many seconds per direction."""

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Run the servers that the runs need."""


@attrs.frozen
class _NetnsEnd:
    host: str
    netns: str
    ipv4: str
    ipv6: str


class KernelTraffic:
    """Runs of ping and iperf3 in the namespaces of the two ends."""

    def __init__(self, world: World) -> None:
        spec = next(iter(net_specs(world.topology).values()))
        self._ends = [
            _NetnsEnd(
                host,
                port.netns_of(world.name, host) or "",
                **{f"ipv{ip_interface(text).version}": str(ip_interface(text).ip) for text in port.addresses},
            )
            for _, host, port in spec.ports(world.topology.ends(spec))
        ]

    def pings(self, count: int, sizes: tuple[int, ...]) -> list[Plan]:
        families = ("ipv4", "ipv6") if has_ipv6() else ("ipv4",)
        return [
            Plan(
                f"ping {family}, {size} bytes",
                source.host,
                getattr(target, family),
                partial(ping, source.netns, getattr(target, family), count=count, size=size),
            )
            for size in sizes
            for family in families
            for source, target in (self._ends, self._ends[::-1])
        ]

    def flows(self, seconds: float, *, udp: bool) -> list[Plan]:
        first, second = self._ends
        bitrate = UDP_BITRATE if udp else "0"
        buffer = UDP_BUFFER if udp else None
        run = partial(iperf3, first.netns, second.ipv4, seconds=seconds, udp=udp, bitrate=bitrate, buffer=buffer)
        run = partial(run, peer=second.netns)
        name = f"UDP {bitrate}bit/s" if udp else "TCP"
        return [
            Plan(name, first.host, second.ipv4, run),
            Plan(name, second.host, first.ipv4, partial(run, reverse=True)),
        ]

    def serving(self) -> AbstractAsyncContextManager[None]:
        return iperf3_server(self._ends[1].netns)


@asynccontextmanager
async def plan_net(world: World, settings: DemoSettings) -> AsyncIterator[Sections]:
    """Plan pings, TCP and UDP; `DemoSettings.seconds` is the length of each throughput run."""
    kind = next(iter(net_specs(world.topology).values())).driver.kind
    traffic: DemoTraffic = MemoryTraffic(world) if kind == "memory" else KernelTraffic(world)
    async with traffic.serving():
        yield {
            "ping": traffic.pings(PINGS, (56, LARGE_PING)),
            "tcp": traffic.flows(settings.seconds, udp=False),
            "udp": traffic.flows(settings.seconds, udp=True),
        }


NET = Demo("frames", lambda settings: default_topology(settings.port, settings.transport, settings.mode), plan_net)
