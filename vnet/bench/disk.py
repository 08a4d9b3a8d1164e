"""A disk behind this stack beside ``nbdkit file``: the same file, the same clients, interleaved in one run."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

import attrs
import trio

from vnet.bench.figures import Machine, median_of
from vnet.bench.measure import rotated
from vnet.bench.processes import answer_lines, cpu_seconds, open_child, this_machine
from vnet.errors import TrafficError
from vnet.linux.background import open_background
from vnet.traffic.disk import fill, fio, nbdcopy

__all__ = ["BARE", "TOOLS", "WORKLOADS", "DiskResult", "DiskResults", "DiskSample", "run_disk_benchmark", "serve"]

VNET, BARE = "vnet", "nbdkit"
TOOLS = ("nbdcopy", "nbdkit", "fio")
WORKLOADS: Mapping[str, str] = {
    "write": "nbdcopy, sequential write",
    "read": "nbdcopy, sequential read",
    "random": "fio, 4 KiB random reads, queue depth 16",
}
START = 10.0
"""Seconds until a server must accept clients."""


@attrs.frozen
class DiskSample:
    """One run of one workload on one contestant."""

    per_second: float
    """Bytes; of random reads, requests."""
    cpu_seconds: float
    """User and system time of the server."""


@attrs.frozen
class DiskResult:
    """One workload on one contestant over all rounds."""

    median: float
    """Median over the rounds: bytes per second; for random reads, requests per second."""
    cpu_seconds: float
    """Median."""
    ratio: float | None
    """Median of each round's ratio to nbdkit's."""
    rounds: tuple[DiskSample | None, ...]
    """None for a run that failed."""


@attrs.frozen
class DiskResults:
    """All figures of the suite."""

    machine: Machine
    size: int
    """Bytes of the disk."""
    workloads: Mapping[str, Mapping[str, DiskResult]]
    """Results by workload, then by contestant."""
    failures: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return attrs.asdict(self)


@attrs.frozen
class Server:
    """One contestant, ready to be measured."""

    name: str
    uri: str
    pid: int


async def run_disk_benchmark(*, rounds: int, seconds: int, size: int, progress: Callable[[str], None]) -> DiskResults:
    """Write and read ``size`` bytes in each run; random reads take ``seconds``. Leaves nothing behind.

    A run that fails is reported and left out. Raises TrafficError, OSError if a server does not start.
    """
    samples: dict[str, dict[str, list[DiskSample | None]]] = {w: {VNET: [], BARE: []} for w in WORKLOADS}
    failures = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vnet-bench-")))
        disk, source = folder / "disk.img", folder / "source.img"
        await trio.to_thread.run_sync(_fill, disk, source, size)
        servers = [
            await stack.enter_async_context(_vnet(folder / "vnet.sock", disk)),
            await stack.enter_async_context(_nbdkit(folder / "nbdkit.sock", disk)),
        ]
        for turn in range(rounds):
            for at, (workload, title) in enumerate(WORKLOADS.items()):
                for server in rotated(servers, turn + at):
                    sample = None
                    try:
                        sample = await _measure(workload, server, source, size, seconds)
                    except TrafficError as exc:
                        failures.append(f"round {turn + 1}, {title}, {server.name}: {exc}")
                    samples[workload][server.name].append(sample)
                figures = ", ".join(f"{name} {_short(workload, row[-1])}" for name, row in samples[workload].items())
                progress(f"round {turn + 1} of {rounds}, {title}: {figures}")
    workloads = {
        workload: {name: _result(row, by_name[BARE]) for name, row in by_name.items() if any(row)}
        for workload, by_name in samples.items()
    }
    return DiskResults(this_machine(), size, workloads, tuple(failures))


def _fill(disk: Path, source: Path, size: int) -> None:
    fill(disk, size)  # allocates all its blocks, so that no contestant has to
    fill(source, size)


def _result(rows: Sequence[DiskSample | None], bare: Sequence[DiskSample | None]) -> DiskResult:
    there = [row for row in rows if row is not None]
    ratios = (a.per_second / b.per_second for a, b in zip(rows, bare, strict=True) if a is not None and b is not None)
    return DiskResult(
        median(row.per_second for row in there),
        median(row.cpu_seconds for row in there),
        median_of(ratios),
        tuple(rows),
    )


def _short(workload: str, sample: DiskSample | None) -> str:
    if sample is None:
        return "failed"
    if workload == "random":
        return f"{sample.per_second / 1e3:.1f} k/s"
    return f"{sample.per_second / 1e6:.0f} MB/s"


async def _measure(workload: str, server: Server, source: Path, size: int, seconds: int) -> DiskSample:
    """Raises TrafficError."""
    before = cpu_seconds(server.pid)
    if workload == "random":
        rate = await fio(server.uri, "randread", size, seconds=seconds)
    elif workload == "write":
        rate = size / await nbdcopy(source, server.uri, size)
    else:
        rate = size / await nbdcopy(server.uri, "null:", size)
    return DiskSample(rate, cpu_seconds(server.pid) - before)


@asynccontextmanager
async def _vnet(socket: Path, disk: Path) -> AsyncIterator[Server]:
    async with open_child("vnet.bench.disk", (str(socket), str(disk))) as child:
        await child.line()  # it is up
        yield Server(VNET, f"nbd+unix:///disk0?socket={socket}", child.pid)


@asynccontextmanager
async def _nbdkit(socket: Path, disk: Path) -> AsyncIterator[Server]:
    start: Callable[..., Awaitable[object]] = partial(
        trio.run_process, stdin=b"", stdout=subprocess.DEVNULL, check=False
    )
    async with open_background() as nursery:
        process = await nursery.start(start, ["nbdkit", "-f", "-U", str(socket), "file", str(disk)])
        with trio.move_on_after(START):
            while not socket.exists() and process.returncode is None:  # noqa: ASYNC110, ASYNC240  nbdkit does not tell
                await trio.sleep(0.01)
        if not socket.exists():  # noqa: ASYNC240  a name is looked up
            raise TrafficError("nbdkit did not start")
        yield Server(BARE, f"nbd+unix:///?socket={socket}", process.pid)


async def serve(socket: str, disk: str) -> None:
    """Run this stack as a process: print an empty line once it is up, end with standard input."""
    from vnet.system.world import open_world
    from vnet.topology.samples import built_in

    keys = f'driver = {{ nbd = {json.dumps(socket)} }}\ndevice = {{ store = "file", path = {json.dumps(disk)} }}'
    async with open_world(built_in("blk", keys=keys, name="disk0"), "bench") as world:
        await world.wait_up()
        await answer_lines()


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Serve a file as a disk at a socket until standard input ends.")
    parser.add_argument("socket")
    parser.add_argument("disk")
    args = parser.parse_args()
    trio.run(serve, args.socket, args.disk)
