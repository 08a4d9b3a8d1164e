"""The order of tasks follows from a seed, in every process and on every version of Python; an endless run is ended."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
from trio._core import _run as private

import vnet
from support.pythons import other_pythons
from vnet.sim import scheduler
from vnet.sim.scheduler import SchedulerUnknown, TimeStands, run_seeded

SEEDS = "2 8 16 25 31"
"""Seeds of one trial for each transport, with both rings, each device type, and faults."""
PROGRAM = """
import sys, types
sys.modules.setdefault("pytun", types.SimpleNamespace(
    IFF_TUN=0, IFF_TAP=0, IFF_NO_PI=0, IFF_VNET_HDR=0, IFF_MULTI_QUEUE=0, TunTapDevice=None, Error=OSError))
from vnet.sim.configuration import Configuration
from vnet.sim.trial import run_trial
for seed in map(int, sys.argv[1].split()):
    result = run_trial(Configuration(seconds=0.3, check=True), seed)
    print(seed, result["failure"], result["events"], result["hash"])
"""


async def shuffled() -> list[int]:
    order: list[int] = []

    async def note(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(note, number)
    return order


def test_the_order_of_tasks_follows_from_the_seed() -> None:
    orders = [run_seeded(shuffled, random.Random(seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_simulated_time_starts_at_0_and_jumps() -> None:
    async def wait() -> tuple[float, float]:
        before = trio.current_time()
        await trio.sleep(3600)
        return before, trio.current_time()

    assert run_seeded(wait, random.Random(1)) == (0, 3600)


def test_a_run_leaves_the_scheduler_as_it_was() -> None:
    before = private._ALLOW_DETERMINISTIC_SCHEDULING, private._r.getstate()
    run_seeded(shuffled, random.Random(1))
    assert (private._ALLOW_DETERMINISTIC_SCHEDULING, private._r.getstate()) == before


def test_tasks_that_keep_each_other_busy_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spin() -> None:
        await trio.sleep(2)
        while True:
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(scheduler, "PASSES", 1000)
    with pytest.raises(TimeStands, match=r"time stands still at 2\.0"):
        run_seeded(spin, random.Random(1))


@pytest.mark.parametrize("name", [scheduler.SWITCH, scheduler.DICE])
def test_a_version_of_trio_without_the_private_names_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(private, name)
    with pytest.raises(SchedulerUnknown, match="keeps its order of tasks elsewhere"):
        run_seeded(shuffled, random.Random(1))


# Processes

PATHS = ":".join(str(Path(module.__file__ or "").parents[1]) for module in (vnet, trio))
"""The project and the packages that it needs, for interpreters that have none of their own."""


def run_trials(python: str, hash_seed: int) -> str:
    """Run the trials in a process of its own; return the result of each on a line."""
    done = subprocess.run(
        [python, "-c", PROGRAM, SEEDS],
        env={"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": PATHS, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_all(pythons: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run_trials, pythons, range(len(pythons))))


@pytest.mark.seeds
def test_ten_processes_with_different_hashes_of_strings_write_the_same_logs() -> None:
    """A tripwire: it fails if Trio's switch has gone, and if anything depends on a clock, or on the order of a set."""
    results = run_all([sys.executable] * 10)
    assert results[0].count(" None ") == len(SEEDS.split()), results[0]
    assert set(results) == {results[0]}


@pytest.mark.seeds
def test_all_versions_of_python_that_are_installed_write_the_same_logs() -> None:
    others = other_pythons()
    if not others:
        pytest.skip("no other version of Python is installed")
    results = run_all([sys.executable, *others.values()])
    assert dict(zip(("this", *others), results, strict=True)) == dict.fromkeys(("this", *others), results[0])
