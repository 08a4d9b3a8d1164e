"""One trial of a campaign in a process of its own, which may die or hang without harm to others."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from trio_parallel import BrokenWorkerError

from vnet.campaign.plan import Plan
from vnet.sim.trial import run_trial

__all__ = ["ATTEMPTS", "Record", "RunApart", "run_apart", "run_seed"]

Record = dict[str, Any]
"""Result of a trial, ready for JSON."""
RunApart = Callable[..., Awaitable[Any]]
"""Runs a function in another process, as `trio_parallel.run_sync` does."""
ATTEMPTS = 2
"""Times that a trial is begun whose process dies: the system may have killed it for its memory."""
ORPHANED = 60
"""Seconds beyond its limit after which a trial ends by itself, because its campaign was killed."""
OF_ALL = ("version", "trio", "configuration")
"""Parts of a result that are the same for all seeds."""


def run_seed(plan: Plan, seed: int) -> Record:
    """Run a trial and return its result, with the seconds that it took as ``took``. Raises ConfigError."""
    configuration, began = plan.open(), time.perf_counter()
    result = run_trial(configuration, seed)
    rest = {key: value for key, value in result.items() if key not in OF_ALL}
    return {**rest, "took": round(time.perf_counter() - began, 3)}


def _run_limited(plan: Plan, seed: int, limit: float) -> Record:
    signal.alarm(int(limit) + ORPHANED)
    try:
        return run_seed(plan, seed)
    finally:
        signal.alarm(0)


async def run_apart(
    run_sync: RunApart, plan: Plan, seed: int, limit: float, limiter: trio.CapacityLimiter | None = None
) -> Record:
    """Run a trial in another process and return its result.

    A process that takes more than ``limit`` seconds is killed, and one that died is replaced: these are failures of the
    kinds hung and died. Raises ConfigError.
    """
    run = partial(run_sync, _run_limited, plan, seed, limit, kill_on_cancel=True, limiter=limiter)
    died = ""
    for _ in range(ATTEMPTS):
        began = trio.current_time()
        with trio.move_on_after(limit) as scope:
            try:
                result: Record = await run()
            except BrokenWorkerError as error:
                died = _last_words(error)
            else:
                return result
        if scope.cancelled_caught:
            return _lost(seed, "hung", f"its process had no result after {limit:g} s", trio.current_time() - began)
    return _lost(seed, "died", f"its process ended with {died}, {ATTEMPTS} times", trio.current_time() - began)


def _last_words(error: BrokenWorkerError) -> str:
    code = error.args[-1].exitcode
    return f"status {code}" if code is None or code >= 0 else signal.Signals(-code).name


def _lost(seed: int, kind: str, text: str, took: float) -> Record:
    return {"seed": seed, "failure": {"kind": kind, "text": text}, "took": round(took, 3)}
