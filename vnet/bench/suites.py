"""The suites of ``vnet bench``: contestants, workloads, and the reference of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import attrs

from vnet.bench import guest_kernel
from vnet.bench.disk import TOOLS, run_disk_benchmark
from vnet.bench.disk import WORKLOADS as DISK_WORKLOADS
from vnet.bench.links import COUNTS, run_links_benchmark
from vnet.bench.measure import WORKLOADS, Workload, run_benchmark
from vnet.bench.rpmsg import run_rpmsg_benchmark
from vnet.bench.setups import APART, BARE, BARE_APART, BARE_C, GUEST, GUEST_FUNCTION, LINKED, WAYS
from vnet.ports.packet.open import check_tun
from vnet.traffic.tools import need_tools

__all__ = [
    "CARRIERS",
    "NET",
    "PEERS",
    "PROCESSES",
    "SUITES",
    "BenchOptions",
    "Comparison",
    "Outcome",
    "Suite",
    "WITH_GUEST",
    "traffic",
]

OVERHEAD = 0.7
"""Seconds a run takes besides its length: programs start and end."""
BOOT = 30.0
"""Seconds until a guest is up."""
LINKS_BASE, LINK = 3.0, 0.05
"""Seconds until a process is up, pinged and down, and those that each of its links adds."""
MESSAGES = 20_000
"""rpmsg messages one way for each second of a run."""


@attrs.frozen
class BenchOptions:
    """The options of one benchmark run."""

    rounds: int
    seconds: int
    """Length of each run."""
    only: tuple[str, ...]
    """Kinds of workloads."""
    contestants: tuple[str, ...]
    size: int
    """Bytes of a disk."""
    congestion: str | None
    """TCP's congestion control; None for the machine's."""
    links: tuple[int, ...] = COUNTS
    """Numbers of links."""


class Outcome(Protocol):
    """The figures of a suite."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Runs that gave no figures, and why."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""


@attrs.frozen
class Comparison:
    """Contestants measured with the same workloads."""

    contestants: tuple[str, ...]
    reference: str
    workloads: tuple[Workload, ...]

    def of(self, options: BenchOptions) -> tuple[list[str], list[Workload]]:
        """The contestants and workloads that the user chose."""
        return (
            [name for name in self.contestants if name in options.contestants],
            [workload for workload in self.workloads if workload.kind in options.only],
        )

    def runs(self, options: BenchOptions) -> int:
        """Number of runs."""
        return self.turns(options) * len(self.of(options)[0])

    def turns(self, options: BenchOptions) -> int:
        """Number of turns, in each of which every contestant runs one workload."""
        return options.rounds * len(self.of(options)[1])


@attrs.frozen
class Suite:
    """One suite: its checks, its length, and how it is run."""

    check: Callable[[], None]
    """Raises PrivilegeError if something is missing."""
    duration: Callable[[BenchOptions], float]
    """Estimated seconds; 0 if nothing is left to do."""
    messages: Callable[[BenchOptions], int]
    """Number of progress messages."""
    run: Callable[[BenchOptions, Callable[[str], None]], Awaitable[Outcome]]
    """Called with the options and a function for progress messages."""
    by_default: bool = True
    """Whether it runs without ``--suite``."""


def _check_traffic() -> None:
    need_tools("ping", "iperf3", "nsenter")
    check_tun()


def _check_guest() -> None:
    need_tools(*guest_kernel.TOOLS)
    _check_traffic()
    guest_kernel.kernel_package()


async def _run_traffic(comparison: Comparison, options: BenchOptions, progress: Callable[[str], None]) -> Outcome:
    contestants, workloads = comparison.of(options)
    return await run_benchmark(
        contestants,
        comparison.reference,
        workloads,
        rounds=options.rounds,
        seconds=options.seconds,
        congestion=options.congestion,
        progress=progress,
    )


def traffic(comparison: Comparison, *, by_default: bool = True) -> Suite:
    """Return the suite of one comparison."""
    return Suite(
        _check_traffic,
        lambda options: comparison.runs(options) * (options.seconds + OVERHEAD),
        comparison.turns,
        partial(_run_traffic, comparison),
        by_default,
    )


async def _run_disk(options: BenchOptions, progress: Callable[[str], None]) -> Outcome:
    return await run_disk_benchmark(
        rounds=options.rounds, seconds=options.seconds, size=options.size, progress=progress
    )


async def _run_rpmsg(options: BenchOptions, progress: Callable[[str], None]) -> Outcome:
    return await run_rpmsg_benchmark(
        WAYS, rounds=options.rounds, messages=MESSAGES * options.seconds, progress=progress
    )


async def _run_links(options: BenchOptions, progress: Callable[[str], None]) -> Outcome:
    return await run_links_benchmark(options.links, rounds=options.rounds, seconds=options.seconds, progress=progress)


NET = Comparison(("tun", "tap", BARE, "veth"), BARE, WORKLOADS)
CARRIERS = Comparison(
    tuple(WAYS),
    "pci",
    tuple(workload for workload in WORKLOADS if workload.name in {"tcp1", "tcp1-reverse", "udp64", "ping"}),
)
PROCESSES = Comparison(
    ("vhost_user", APART, LINKED, BARE, BARE_APART),
    "vhost_user",
    tuple(workload for workload in WORKLOADS if workload.kind == "tcp" or workload.name in {"udp64", "ping"}),
)
PEERS = Comparison(
    ("tun", BARE_C, BARE, "veth", "socat", "pasta", "dpdk", APART, BARE_APART),
    BARE_C,
    tuple(workload for workload in WORKLOADS if workload.length != 1400),
)
WITH_GUEST = Comparison(
    ("tun", GUEST, GUEST_FUNCTION),
    GUEST,
    tuple(workload for workload in WORKLOADS if workload.name in {"tcp1", "tcp1-reverse"}),
)
SUITES: Mapping[str, Suite] = {
    "net": traffic(NET),
    "carriers": traffic(CARRIERS),
    "processes": traffic(PROCESSES),
    "peers": traffic(PEERS, by_default=False),
    "guest": Suite(
        _check_guest,
        lambda options: (options.seconds + OVERHEAD) * runs + BOOT if (runs := WITH_GUEST.runs(options)) else 0,
        WITH_GUEST.turns,
        partial(_run_traffic, WITH_GUEST),
        by_default=False,
    ),
    "disk": Suite(
        partial(need_tools, *TOOLS),
        lambda options: options.rounds * 2 * (options.seconds + options.size / 2**28),
        lambda options: options.rounds * len(DISK_WORKLOADS),
        _run_disk,
    ),
    "rpmsg": Suite(
        lambda: None,
        lambda options: options.rounds * len(WAYS) * options.seconds / 2,
        lambda options: options.rounds,
        _run_rpmsg,
    ),
    "links": Suite(
        _check_traffic,
        lambda options: options.rounds * sum(2 * options.seconds + LINKS_BASE + LINK * n for n in options.links),
        lambda options: options.rounds * len(options.links),
        _run_links,
        by_default=False,
    ),
}
