"""Runs every workload on every contestant, interleaved: noise that lasts longer than a run meets all of them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Literal, TypeVar

import attrs
import trio

from vnet.bench.figures import Result, Results, Sample, between, from_samples
from vnet.bench.processes import cpu_seconds, peak_memory, this_machine
from vnet.bench.setups import CONTESTANTS, Setup, open_setup
from vnet.errors import PrivilegeError, TrafficError
from vnet.linux.netns import in_netns
from vnet.traffic.kernel import iperf3, iperf3_server, run

__all__ = ["PINGS", "WORKLOADS", "Kind", "Workload", "ping_times", "rotated", "run_benchmark"]

Kind = Literal["tcp", "udp", "ping"]
T = TypeVar("T")

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
PINGS = 100
PING_INTERVAL = 0.01
"""Seconds between two pings: longer than code stays in the caches."""
PING_TIMEOUT = 30.0
"""Seconds."""
ANSWERS = 15.0
"""Seconds until a contestant that is set up must answer pings: programs may still be starting."""


@attrs.frozen
class Workload:
    """One kind of traffic, from rc (in this stack the driver's host) to ep (the device's host)."""

    name: str
    title: str
    kind: Kind
    streams: int = 1
    length: int | None = None
    """Bytes of a datagram."""
    reverse: bool = False
    """From ep to rc."""


def _both_ways(name: str, title: str, kind: Kind, streams: int = 1, length: int | None = None) -> list[Workload]:
    return [
        Workload(name, f"{title}, rc to ep", kind, streams, length),
        Workload(f"{name}-reverse", f"{title}, ep to rc", kind, streams, length, reverse=True),
    ]


WORKLOADS = (
    *_both_ways("tcp1", "TCP 1 stream", "tcp"),
    *_both_ways("tcp4", "TCP 4 streams", "tcp", streams=4),
    *_both_ways("udp64", "UDP 64 bytes", "udp", length=64),
    *_both_ways("udp1400", "UDP 1400 bytes", "udp", length=1400),
    Workload("ping", "ping after 10 ms of rest", "ping"),
)


def rotated(items: Sequence[T], by: int) -> list[T]:
    """``items`` rotated left by ``by``, so that no contestant always follows the same one."""
    by %= len(items)
    return [*items[by:], *items[:by]]


async def run_benchmark(
    contestants: Sequence[str],
    reference: str,
    workloads: Sequence[Workload],
    *,
    rounds: int,
    seconds: int,
    congestion: str | None,
    progress: Callable[[str], None],
) -> Results:
    """Set the contestants up, measure them ``rounds`` times, and remove them.

    TCP uses the algorithm ``congestion``, None for the machine's. Figures are compared with ``reference`` if that is
    one of them. A run that fails is reported and left out.
    Raises PrivilegeError, OSError, TrafficError if a contestant can't be set up; an optional one is left out instead.
    """
    failures = []
    async with AsyncExitStack() as stack:
        setups: list[Setup] = []
        left_out: dict[str, str] = {}
        for name in contestants:
            try:
                setups.append(await stack.enter_async_context(_warm_setup(name)))
            except (PrivilegeError, TrafficError, OSError) as exc:
                if not CONTESTANTS[name].optional:
                    raise
                left_out[name] = str(exc)
                progress(f"{name} is left out: {exc}")
        if not setups:
            raise TrafficError("no contestant can be set up")
        samples: dict[str, dict[str, list[Sample | None]]] = {
            workload.name: {setup.name: [] for setup in setups} for workload in workloads
        }
        for turn in range(rounds):
            for at, workload in enumerate(workloads):
                shown = {}
                for setup in rotated(setups, turn + at):
                    sample = None
                    try:
                        _send(signal.SIGCONT, setup)
                        sample = await measure(workload, setup, seconds, congestion)
                    except TrafficError as exc:
                        failures.append(f"round {turn + 1}, {workload.title}, {setup.name}: {exc}")
                    finally:
                        _send(signal.SIGSTOP, setup)
                    samples[workload.name][setup.name].append(sample)
                    shown[setup.name] = in_short(workload, sample)
                figures = ", ".join(f"{name} {shown[name]}" for name in contestants if name in shown)
                progress(f"round {turn + 1} of {rounds}, {workload.title}: {figures}")
        used = congestion or (await in_netns(setups[0].netns[1], CONGESTION.read_text)).strip()
        memory = {setup.name: _peak(setup) for setup in setups if setup.pids}
    return Results(
        this_machine(),
        rounds,
        seconds,
        used,
        reference,
        {name: _results(by_contestant, reference) for name, by_contestant in samples.items()},
        memory,
        tuple(failures),
        left_out,
    )


@asynccontextmanager
async def _warm_setup(name: str) -> AsyncIterator[Setup]:
    """Set a contestant up, and ping until it answers, which resolves MAC addresses.

    Raises PrivilegeError, OSError, TrafficError.
    """
    async with open_setup(name, f"vnet-bench-{os.getpid()}") as setup:
        deadline = trio.current_time() + ANSWERS
        while True:
            try:
                await round_trips(setup, count=5)
                break
            except TrafficError:
                if trio.current_time() > deadline:
                    raise
        _send(signal.SIGSTOP, setup)
        yield setup


def _send(number: signal.Signals, setup: Setup) -> None:
    """Stop or continue the processes of a contestant that polls: it would take a processor from the others."""
    for pid in setup.pids if setup.polls else ():
        os.kill(pid, number)


def _peak(setup: Setup) -> int | None:
    """Sum of the peak memory of its processes in bytes; None if one of them has ended."""
    peaks = [peak_memory(pid) for pid in setup.pids]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


def _results(samples: dict[str, list[Sample | None]], reference: str) -> dict[str, Result]:
    return {name: from_samples(rounds, samples.get(reference, ())) for name, rounds in samples.items()}


async def measure(workload: Workload, setup: Setup, seconds: int, congestion: str | None) -> Sample:
    """Run one workload once. Raises TrafficError."""
    before = await setup.figures() if setup.figures is not None else ()
    cpu_before = sum(map(cpu_seconds, setup.pids))
    if workload.kind == "ping":
        times = await round_trips(setup, count=PINGS)
        sample = Sample(rtt_average=fmean(times), rtt_median=median(times))
    else:
        sample = await throughput(workload, setup, seconds, congestion, cpu_before)
    if setup.figures is not None:
        sample = sample.with_queues(between(before, await setup.figures()))
    return sample


async def throughput(
    workload: Workload, setup: Setup, seconds: int, congestion: str | None, cpu_before: float
) -> Sample:
    client, target = setup.client
    # A server for each run: one that was left in the middle of a run would refuse the next.
    async with AsyncExitStack() as stack:
        if setup.guest_server is not None:
            await setup.guest_server()
        else:
            await stack.enter_async_context(iperf3_server(setup.netns[1]))
        flow = await iperf3(
            client,
            target,
            seconds=seconds,
            reverse=workload.reverse != (setup.guest_server is not None),
            udp=workload.kind == "udp",
            length=workload.length,
            streams=workload.streams,
            congestion=congestion if workload.kind == "tcp" else None,
        )
    if not flow.bytes:
        raise TrafficError("nothing arrived")
    cpu = (sum(map(cpu_seconds, setup.pids)) - cpu_before) / flow.bytes * 1e9 if setup.pids else None
    return Sample(
        bits_per_second=flow.bits_per_second,
        packets_per_second=flow.packets / flow.seconds if workload.kind == "udp" else None,
        cpu_seconds_per_gigabyte=cpu,
    )


async def round_trips(setup: Setup, count: int) -> list[float]:
    """Milliseconds of each ping that came back. Raises TrafficError when none did."""
    client, target = setup.client
    return await ping_times(client, target, count)


async def ping_times(netns: str, target: str, count: int) -> list[float]:
    """Milliseconds of each ping from a namespace that came back. Raises TrafficError when none did."""
    argv = ["ping", "-n", "-c", str(count), "-i", str(PING_INTERVAL), "-W", "1", target]
    done = await run(netns, argv, PING_TIMEOUT)
    times = [float(text) for text in re.findall(rb"time=([\d.]+) ms", done.stdout)]
    if not times:
        raise TrafficError(f"no ping came back from {target}")
    return times


def in_short(workload: Workload, sample: Sample | None) -> str:
    """The headline of one run, for progress messages."""
    match sample:
        case None:
            return "failed"
        case Sample(rtt_median=float(rtt)):
            return f"{rtt:.3f} ms"
        case Sample(packets_per_second=float(packets)):
            return f"{packets / 1e3:.0f} kpackets/s"
        case Sample(bits_per_second=float(bits)):
            return f"{bits / 1e9:.2f} Gbit/s"
    return f"no figure for {workload.kind}"
