"""A trial whose process dies or hangs is a failure of that trial; the time is simulated, and the process is a fake."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio_parallel import BrokenWorkerError

from vnet.campaign.local import run_all
from vnet.campaign.plan import Plan
from vnet.campaign.trial import Record, run_apart
from vnet.errors import ConfigError
from vnet.sim.configuration import Configuration

PLAN = Plan(Configuration(seconds=0.1))
LIMIT = 30.0


class Processes:
    """Runs nothing: `act` decides for each seed what its process does."""

    def __init__(self, act: Callable[[int], int | float | BaseException]) -> None:
        """``act`` returns the seconds that a trial takes, or the error with which it ends."""
        self.act = act
        self.begun: list[int] = []

    async def run_sync(
        self, _function: Any, _plan: Plan, seed: int, _limit: float, *, kill_on_cancel: bool,
        limiter: trio.CapacityLimiter | None = None,
    ) -> Record:  # fmt: skip
        assert kill_on_cancel
        self.begun.append(seed)
        async with limiter or trio.CapacityLimiter(1):
            acted = self.act(seed)
            if isinstance(acted, BaseException):
                raise acted
            await trio.sleep(acted)
        return {"seed": seed, "failure": None, "took": acted}


def died(code: int | None) -> BrokenWorkerError:
    return BrokenWorkerError("Worker died unexpectedly:", SimpleNamespace(exitcode=code))


async def test_a_trial_that_hangs_ends_at_its_limit(autojump_clock: object) -> None:
    record = await run_apart(Processes(lambda seed: 1e9).run_sync, PLAN, 5, LIMIT)
    failure = {"kind": "hung", "text": "its process had no result after 30 s"}
    assert record == {"seed": 5, "failure": failure, "took": 30}


@pytest.mark.parametrize(("code", "words"), [(-11, "SIGSEGV"), (-9, "SIGKILL"), (3, "status 3"), (None, "status None")])
async def test_a_trial_whose_process_dies_is_begun_once_more(code: int | None, words: str) -> None:
    processes = Processes(lambda seed: died(code))
    record = await run_apart(processes.run_sync, PLAN, 5, LIMIT)
    assert record["failure"] == {"kind": "died", "text": f"its process ended with {words}, 2 times"}
    assert processes.begun == [5, 5]


async def test_a_process_that_was_killed_once_costs_nothing(autojump_clock: object) -> None:
    ends: list[float | BaseException] = [died(-9), 1.0]
    record = await run_apart(Processes(lambda seed: ends.pop(0)).run_sync, PLAN, 5, LIMIT)
    assert record == {"seed": 5, "failure": None, "took": 1.0}


async def test_a_trial_that_dies_or_hangs_costs_no_other(autojump_clock: object) -> None:
    acts: dict[int, float | BaseException] = {3: died(-11), 4: 1e9}
    processes, records = Processes(lambda seed: acts.get(seed, 1.0)), list[Record]()
    await run_all(processes.run_sync, PLAN, range(10), 2, LIMIT, records.append)
    kinds = {record["seed"]: record["failure"] and record["failure"]["kind"] for record in records}
    assert kinds == {**dict.fromkeys(range(10)), 3: "died", 4: "hung"}
    assert trio.current_time() - LIMIT < LIMIT


async def test_no_more_processes_run_than_are_wanted(autojump_clock: object) -> None:
    running, most = 0, 0

    async def run_sync(_function: Any, _plan: Plan, seed: int, _limit: float, **_: object) -> Record:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return {"seed": seed, "failure": None, "took": 1.0}

    records: list[Record] = []
    await run_all(run_sync, PLAN, range(20), 3, LIMIT, records.append)
    assert (most, len(records)) == (3, 20)


async def test_an_error_of_the_plan_ends_the_campaign() -> None:
    processes = Processes(lambda seed: ConfigError("file", "hosts", None, "must be there"))
    with pytest.RaisesGroup(ConfigError):
        await run_all(processes.run_sync, PLAN, range(3), 1, LIMIT, list)
