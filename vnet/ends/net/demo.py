"""Demonstration of a network device: pings, TCP and UDP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from ipaddress import ip_interface
from typing import Protocol

import attrs

from vnet.ends.net.end import NetEnd
from vnet.ends.net.memory_traffic import MemoryTraffic
from vnet.ends.net.spec import NetSpec
from vnet.ends.running import Demo, DemoSettings, RunningDevice, Sections
from vnet.linux.netns import check_netns, has_ipv6
from vnet.ports.packet.open import check_tun
from vnet.traffic.kernel import Plan, iperf3, iperf3_server, ping
from vnet.traffic.tools import need_tools

__all__ = ["DEMO"]

PINGS = 10
"""Echo requests of a ping run."""
LARGE_PING = 60000
"""Bytes of a large echo request, which IP fragments."""
UDP_BITRATE = "50M"
"""Bits per second of a UDP run."""
UDP_BUFFER = "208K"
"""Largest socket buffer that every kernel grants: it loses fewest datagrams while the receiver is not scheduled."""

RunningNet = RunningDevice[NetSpec, tuple[NetEnd, NetEnd]]


def keys(settings: DemoSettings) -> str:
    """Return the keys of a device with a port of the requested kind and two addresses at each end."""
    return f"""
driver = {{ kind = "{settings.port}", addresses = ["198.18.0.1/24", "2001:2::1/64"] }}
device = {{ kind = "{settings.port}", addresses = ["198.18.0.2/24", "2001:2::2/64"] }}
"""


def check_port(port: str) -> None:
    """Raise PrivilegeError if this process lacks a right or a program for ports of this kind."""
    if port != "memory":
        need_tools("ping", "iperf3", "nsenter")
        check_tun()
        check_netns()


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

    def __init__(self, running: RunningNet) -> None:
        self._ends = [
            _NetnsEnd(
                host,
                port.netns_of(running.system, host) or "",
                **{f"ipv{ip_interface(text).version}": str(ip_interface(text).ip) for text in port.addresses},
            )
            for _, host, port in running.spec.ports(running.hosts)
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
async def plan(running: RunningNet, settings: DemoSettings) -> AsyncIterator[Sections]:
    """Plan pings, TCP and UDP; `DemoSettings.seconds` is the length of each throughput run."""
    traffic: DemoTraffic = MemoryTraffic(running) if settings.port == "memory" else KernelTraffic(running)
    async with traffic.serving():
        yield {
            "ping": traffic.pings(PINGS, (56, LARGE_PING)),
            "tcp": traffic.flows(settings.seconds, udp=False),
            "udp": traffic.flows(settings.seconds, udp=True),
        }


DEMO = Demo(
    "ping and iperf3; without TUN, root or these programs, scapy frames on in-memory ports",
    "frames",
    plan,
    keys,
    ports=("tun", "tap", "memory"),
    fallback="in-memory ports with scapy traffic",
    check_port=check_port,
)
