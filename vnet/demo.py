"""The main job, run and judged: pings, TCP and UDP across the virtqueues, then what every queue counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from ipaddress import ip_interface
from typing import Protocol

import attrs

from vnet.built_in import built_in
from vnet.describe import QueueRow, drop_total, queue_rows
from vnet.ends.net import PortKind, net_specs
from vnet.memory_traffic import MemoryTraffic
from vnet.topology import Topology
from vnet.traffic import PingResult, Plan, Run, iperf3, iperf3_server, ping
from vnet.world import World, open_world

__all__ = ["DemoReport", "default_topology", "run_demo"]

PINGS = 10
LARGE_PING = 60000
UDP_BITRATE = "50M"
UDP_LOSS = 0.01
"""The part of UDP datagrams at `UDP_BITRATE` that may be lost."""


@attrs.frozen
class DemoReport:
    """All figures of one demo."""

    ping: tuple[Run, ...]
    tcp: tuple[Run, ...]
    udp: tuple[Run, ...]
    queues: tuple[QueueRow, ...]
    drops: Mapping[str, int]
    """What our own counters say was dropped, by place and cause."""

    def failures(self) -> list[str]:
        """What is not as it must be, a sentence each; empty when all is well."""
        said = []
        for run in (*self.ping, *self.tcp, *self.udp):
            result, what = run.result, f"{run.name} from {run.source}"
            if isinstance(result, PingResult):
                if result.lost:
                    said.append(f"{what} lost {result.lost} of {result.sent}")
            elif not result.complete:
                said.append(f"{what} ended after {result.seconds:.1f} s")
            elif result.loss > UDP_LOSS:
                said.append(f"{what} lost {100 * result.loss:.1f} % of its datagrams")
        return said + [f"{count} frames dropped: {cause}" for cause, count in self.drops.items() if count]

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return attrs.asdict(
            self, value_serializer=lambda _, __, value: dict(value) if isinstance(value, Mapping) else value
        )


def default_topology(port: PortKind, transport: str = "pci", mode: str = "direct") -> Topology:
    """One network device with ports of this kind, and what that transport needs around it. Raises ConfigError."""
    keys = f"""
driver = {{ kind = "{port}", addresses = ["198.18.0.1/24", "2001:2::1/64"] }}
device = {{ kind = "{port}", addresses = ["198.18.0.2/24", "2001:2::2/64"] }}
"""
    return built_in("net", transport, keys, mode=mode)


class Traffic(Protocol):
    """Where the runs of a demo come from."""

    def pings(self, count: int, sizes: tuple[int, ...]) -> list[Plan]: ...

    def flows(self, seconds: float, *, udp: bool) -> list[Plan]: ...

    def serving(self) -> AbstractAsyncContextManager[None]:
        """What has to run meanwhile."""


@attrs.frozen
class _End:
    host: str
    netns: str
    ipv4: str
    ipv6: str


class KernelTraffic:
    """The real ping and the real iperf3, in the namespaces of the two ends."""

    def __init__(self, world: World) -> None:
        spec = next(iter(net_specs(world.topology).values()))
        self._ends = [
            _End(
                host,
                port.netns_of(world.name, host) or "",
                **{f"ipv{ip_interface(text).version}": str(ip_interface(text).ip) for text in port.addresses},
            )
            for _, host, port in spec.ports(world.topology.ends(spec))
        ]

    def pings(self, count: int, sizes: tuple[int, ...]) -> list[Plan]:
        return [
            Plan(
                f"ping {family}, {size} bytes",
                here.host,
                getattr(there, family),
                partial(ping, here.netns, getattr(there, family), count=count, size=size),
            )
            for size in sizes
            for family in ("ipv4", "ipv6")
            for here, there in (self._ends, self._ends[::-1])
        ]

    def flows(self, seconds: float, *, udp: bool) -> list[Plan]:
        first, second = self._ends
        bitrate = UDP_BITRATE if udp else "0"
        run = partial(iperf3, first.netns, second.ipv4, seconds=seconds, udp=udp, bitrate=bitrate)
        name = f"UDP {bitrate}bit/s" if udp else "TCP"
        return [
            Plan(name, first.host, second.ipv4, run),
            Plan(name, second.host, first.ipv4, partial(run, reverse=True)),
        ]

    def serving(self) -> AbstractAsyncContextManager[None]:
        return iperf3_server(self._ends[1].netns)


async def run_demo(
    topology: Topology,
    *,
    name: str,
    seconds: float,
    started: Callable[[Plan], None],
    finished: Callable[[Run], None],
) -> DemoReport:
    """Build ``topology``, run everything, take it down. ``seconds`` is the length of each throughput run.

    Raises what `open_world` raises, and TrafficError.
    """
    async with open_world(topology, name) as world:
        await world.wait_up()
        kind = next(iter(net_specs(topology).values())).driver.kind
        traffic: Traffic = MemoryTraffic(world) if kind == "memory" else KernelTraffic(world)
        sections = {
            "ping": traffic.pings(PINGS, (56, LARGE_PING)),
            "tcp": traffic.flows(seconds, udp=False),
            "udp": traffic.flows(seconds, udp=True),
        }
        runs: dict[str, tuple[Run, ...]] = {}
        async with traffic.serving():
            for section, plans in sections.items():
                done = []
                for plan in plans:
                    started(plan)
                    done.append(await plan.run())
                    finished(done[-1])
                runs[section] = tuple(done)
        return DemoReport(**runs, queues=tuple(queue_rows(world)), drops=drop_total(world))
