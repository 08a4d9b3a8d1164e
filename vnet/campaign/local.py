"""The trials of a campaign on this machine: a few processes, each of which runs one trial after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import trio
import trio_parallel
from trio_parallel import BrokenWorkerError

from vnet.campaign.plan import Plan
from vnet.campaign.trial import Record, RunApart, run_apart

__all__ = ["run_all", "run_local"]

IDLE = 60.0
"""Seconds after which a process without a trial ends."""
Take = Callable[[Record], object]
"""Takes the result of each trial, in the order in which they end."""


async def run_local(plan: Plan, seeds: Iterable[int], processes: int, limit: float, take: Take) -> None:
    """Run the trials of ``seeds`` in so many processes, each for at most ``limit`` seconds. Raises ConfigError."""
    with suppress(BrokenWorkerError):  # of a process that was killed while it had no trial
        async with trio_parallel.open_worker_context(idle_timeout=IDLE) as context:
            await run_all(context.run_sync, plan, seeds, processes, limit, take)


async def run_all(
    run_sync: RunApart, plan: Plan, seeds: Iterable[int], processes: int, limit: float, take: Take
) -> None:
    """Run the trials of ``seeds`` with ``run_sync``, as `run_local` does."""
    rest, limiter = iter(seeds), trio.CapacityLimiter(processes)

    async def work() -> None:
        for seed in rest:
            take(await run_apart(run_sync, plan, seed, limit, limiter))

    async with trio.open_nursery() as nursery:
        for _ in range(processes):
            nursery.start_soon(work)
