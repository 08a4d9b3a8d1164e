"""What ``vnet bench`` measures, suite by suite: who takes part, what is done, and who the others are compared with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import attrs

from vnet.bench import guest
from vnet.bench.disk import TOOLS, run_disk_benchmark
from vnet.bench.measure import WORKLOADS, Workload, run_benchmark
from vnet.bench.rpmsg import run_rpmsg_benchmark
from vnet.bench.setups import APART, BARE, BARE_APART, GUEST, WAYS
from vnet.ports.packet.open import check_tun
from vnet.traffic.kernel import need_tools

__all__ = ["CARRIERS", "NET", "PROCESSES", "SUITES", "Asked", "Comparison", "Outcome", "Suite", "WITH_GUEST", "traffic"]

OVERHEAD = 0.7
"""Seconds a run takes besides what it was asked for: programs start and end, pings."""
BOOT = 30.0
"""Seconds until a guest is up."""
MESSAGES = 20_000
"""Of rpmsg, one way, for each second of a run."""


@attrs.frozen
class Asked:
    """What the user wants."""

    rounds: int
    seconds: int
    """Of each run."""
    only: tuple[str, ...]
    """Kinds of workloads."""
    contestants: tuple[str, ...]
    size: int
    """Bytes of a disk."""
    congestion: str | None
    """The algorithm by which TCP finds its rate; None for the machine's."""


class Outcome(Protocol):
    """What a suite measured."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Runs that gave no figures, and why."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""


@attrs.frozen
class Comparison:
    """Ways from one namespace to another, measured with the same workloads."""

    contestants: tuple[str, ...]
    reference: str
    workloads: tuple[Workload, ...]

    def of(self, asked: Asked) -> tuple[list[str], list[Workload]]:
        """Who takes part, and in what."""
        return (
            [name for name in self.contestants if name in asked.contestants],
            [workload for workload in self.workloads if workload.kind in asked.only],
        )

    def runs(self, asked: Asked) -> float:
        """How many there will be."""
        contestants, workloads = self.of(asked)
        return asked.rounds * len(contestants) * len(workloads)


@attrs.frozen
class Suite:
    """One table of figures."""

    check: Callable[[], None]
    """Raises PrivilegeError where something is missing."""
    duration: Callable[[Asked], float]
    """Seconds, roughly; 0 where nothing is left to do."""
    run: Callable[[Asked, Callable[[str], None]], Awaitable[Outcome]]
    """The second argument is told of each step."""
    by_default: bool = True
    """Whether it runs where nothing is said of suites."""


def _check_traffic() -> None:
    need_tools("ping", "iperf3", "nsenter")
    check_tun()


def _check_guest() -> None:
    need_tools(*guest.TOOLS)
    _check_traffic()
    guest.kernel_package()


async def _run_traffic(comparison: Comparison, asked: Asked, progress: Callable[[str], None]) -> Outcome:
    contestants, workloads = comparison.of(asked)
    return await run_benchmark(
        contestants,
        comparison.reference,
        workloads,
        rounds=asked.rounds,
        seconds=asked.seconds,
        congestion=asked.congestion,
        progress=progress,
    )


def traffic(comparison: Comparison) -> Suite:
    """The suite of one comparison."""
    return Suite(
        _check_traffic,
        lambda asked: comparison.runs(asked) * (asked.seconds + OVERHEAD),
        partial(_run_traffic, comparison),
    )


async def _run_disk(asked: Asked, progress: Callable[[str], None]) -> Outcome:
    return await run_disk_benchmark(rounds=asked.rounds, seconds=asked.seconds, size=asked.size, progress=progress)


async def _run_rpmsg(asked: Asked, progress: Callable[[str], None]) -> Outcome:
    return await run_rpmsg_benchmark(WAYS, rounds=asked.rounds, messages=MESSAGES * asked.seconds, progress=progress)


NET = Comparison(("tun", "tap", BARE, "veth"), BARE, WORKLOADS)
CARRIERS = Comparison(
    tuple(WAYS),
    "pci",
    tuple(workload for workload in WORKLOADS if workload.name in {"tcp1", "tcp1-reverse", "udp64", "ping"}),
)
PROCESSES = Comparison(
    ("vhost_user", APART, BARE, BARE_APART),
    "vhost_user",
    tuple(workload for workload in WORKLOADS if workload.kind == "tcp" or workload.name in {"udp64", "ping"}),
)
WITH_GUEST = Comparison(
    ("tun", GUEST), "tun", tuple(workload for workload in WORKLOADS if workload.name in {"tcp1", "tcp1-reverse"})
)
SUITES: Mapping[str, Suite] = {
    "net": traffic(NET),
    "carriers": traffic(CARRIERS),
    "processes": traffic(PROCESSES),
    "guest": Suite(
        _check_guest,
        lambda asked: (asked.seconds + OVERHEAD) * runs + BOOT if (runs := WITH_GUEST.runs(asked)) else 0,
        partial(_run_traffic, WITH_GUEST),
        by_default=False,
    ),
    "disk": Suite(
        partial(need_tools, *TOOLS), lambda asked: asked.rounds * 2 * (asked.seconds + asked.size / 2**28), _run_disk
    ),
    "rpmsg": Suite(lambda: None, lambda asked: asked.rounds * len(WAYS) * asked.seconds / 2, _run_rpmsg),
}
