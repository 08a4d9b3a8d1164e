"""Many links in one process: how long they take to come up, what they cost at rest, and what one busy link among them
costs per packet.

``python -m vnet.bench.links COUNT NETNS NETNS`` runs that many links, each with a network device on TUN, in two
namespaces that exist. It writes a line of JSON when all are up, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from statistics import median

import attrs
import trio

from vnet.bench.figures import Machine, median_of
from vnet.bench.measure import PINGS, ping_times, rotated
from vnet.bench.processes import answer_lines, cpu_seconds, open_child, resident_memory, this_machine
from vnet.errors import TrafficError
from vnet.linux.netns import open_netns
from vnet.system.world import open_world
from vnet.topology import Topology, parse
from vnet.traffic.kernel import iperf3, iperf3_server

__all__ = [
    "COUNTS",
    "LINKS_MAX",
    "LinksFigures",
    "LinksResult",
    "LinksResults",
    "links_topology",
    "run_links_benchmark",
]

COUNTS = (1, 10, 50, 100, 250)
LINKS_MAX = 255
"""Links of a root complex."""
NETWORK = int(IPv4Address("198.18.0.0"))
LENGTH = 64
"""Bytes of a datagram."""


@attrs.frozen
class LinksFigures:
    """Figures of one run; None for one that was not measured."""

    start: float
    """Seconds from the start of the system until all links are up; imports are not counted."""
    start_cpu: float
    """Processor seconds of the process in that time."""
    memory: float
    """Resident bytes when all links are up."""
    idle: float
    """Share of a processor that the process uses while no link carries anything."""
    ping: float | None = None
    """Median milliseconds of a ping over one of the links."""
    cpu_per_packet: float | None = None
    """Processor seconds per datagram of 64 bytes over one busy link."""


FIGURES = tuple(field.name for field in attrs.fields(LinksFigures))


@attrs.frozen
class LinksResult:
    """Some number of links over all rounds."""

    median: Mapping[str, float | None]
    """Medians over the rounds, by figure."""
    cpu_per_packet_ratio: float | None
    """Median of each round's ratio to the smallest number of links."""
    rounds: tuple[LinksFigures | None, ...]
    """None for a run that failed."""


@attrs.frozen
class LinksResults:
    """All figures of the suite."""

    machine: Machine
    load: float
    """Load average of the machine at the end, over a minute."""
    counts: Mapping[str, LinksResult]
    """Results by number of links."""
    failures: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return attrs.asdict(self)


def addresses(link: int) -> tuple[str, str]:
    """Return the IPv4 addresses of both ends of a link, each the only other host in the network of the other."""
    network = NETWORK + 4 * link
    return str(IPv4Address(network + 1)), str(IPv4Address(network + 2))


def links_topology(count: int, netns: tuple[str, str]) -> Topology:
    """Return a topology of two hosts joined by ``count`` links, each with a network device.

    The interfaces of either side are in one namespace.
    """

    def lines() -> Iterator[str]:
        yield "[hosts.rc]\n[hosts.ep]"
        for link in range(count):
            yield f'[links.pcie{link}]\nroot = "rc"\nendpoint = "ep"'
            yield f'[devices.net{link}]\ntype = "net"\nlink = "pcie{link}"'
            for side, name, address in zip(("driver", "device"), netns, addresses(link), strict=True):
                place = f'ifname = "vnet{link}", netns = "{name}"'
                yield f'{side} = {{ {place}, addresses = ["{address}/30"] }}'

    return parse("\n".join(lines()))


async def run_links_benchmark(
    counts: Sequence[int], *, rounds: int, seconds: int, progress: Callable[[str], None]
) -> LinksResults:
    """Measure systems of so many links in turn, ``rounds`` times. Raises PrivilegeError, OSError."""
    samples: dict[int, list[LinksFigures | None]] = {count: [] for count in counts}
    failures = []
    for turn in range(rounds):
        for count in rotated(counts, turn):
            sample = None
            try:
                sample = await _measure(count, seconds)
            except TrafficError as exc:
                failures.append(f"round {turn + 1}, {count} links: {exc}")
            samples[count].append(sample)
            progress(f"round {turn + 1} of {rounds}, {count} links: {_short(sample)}")
    reference = samples[min(counts)]
    results = {str(count): _result(rows, reference) for count, rows in samples.items()}
    return LinksResults(this_machine(), os.getloadavg()[0], results, tuple(failures))


async def _measure(count: int, seconds: int) -> LinksFigures:
    """Run a system once. Raises TrafficError."""
    netns = (f"vnet-bench-links-{count}-rc", f"vnet-bench-links-{count}-ep")
    async with (
        open_netns(netns[0]),
        open_netns(netns[1]),
        open_child("vnet.bench.links", [str(count), *netns]) as child,
    ):
        start, start_cpu = json.loads(await child.line())
        memory = resident_memory(child.pid)
        before = cpu_seconds(child.pid)
        await trio.sleep(seconds)
        idle = (cpu_seconds(child.pid) - before) / seconds
        _, target = addresses(count // 2)
        ping = median(await ping_times(netns[0], target, PINGS))
        async with iperf3_server(netns[1]):
            before = cpu_seconds(child.pid)
            flow = await iperf3(netns[0], target, seconds=seconds, udp=True, length=LENGTH)
            used = cpu_seconds(child.pid) - before
        if not flow.packets:
            raise TrafficError("nothing arrived")
        return LinksFigures(start, start_cpu, memory, idle, ping, used / flow.packets)


def _result(rows: Sequence[LinksFigures | None], reference: Sequence[LinksFigures | None]) -> LinksResult:
    def ratios() -> Iterator[float | None]:
        for row, other in zip(rows, reference, strict=True):
            if row and other and row.cpu_per_packet and other.cpu_per_packet:
                yield row.cpu_per_packet / other.cpu_per_packet

    medians = {name: median_of(getattr(row, name) for row in rows if row is not None) for name in FIGURES}
    return LinksResult(medians, median_of(ratios()), tuple(rows))


def _short(sample: LinksFigures | None) -> str:
    if sample is None or sample.cpu_per_packet is None:
        return "failed"
    return f"up in {sample.start:.2f} s, {sample.cpu_per_packet * 1e6:.1f} us a packet"


async def serve(count: int, netns: tuple[str, str]) -> None:
    """Run the system as a process: print seconds and processor seconds of its start, end with standard input."""
    topology = links_topology(count, netns)
    began, used = time.monotonic(), time.process_time()
    async with open_world(topology) as world:
        await world.wait_up()
        figures = [time.monotonic() - began, time.process_time() - used]
        await answer_lines(lambda: json.dumps(figures).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Run links between two namespaces until standard input ends.")
    parser.add_argument("count", type=int)
    parser.add_argument("netns", nargs=2)
    args = parser.parse_args()
    first, second = args.netns
    trio.run(serve, args.count, (first, second))


if __name__ == "__main__":
    main()
