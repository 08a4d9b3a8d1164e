"""Campaigns in real processes, which die, hang and are killed, end with the results that the same trials have here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from support.paths import VNET
from vnet.campaign.local import run_local
from vnet.campaign.plan import Plan
from vnet.campaign.tally import Tally
from vnet.campaign.trial import Record, run_seed
from vnet.sim.configuration import Configuration

SHORT = Configuration(seconds=0.1, data_path=False)
LONG = 600.0
"""Seconds that no trial takes."""
WILD = """\
import os, signal, time
from vnet.campaign import trial

run = trial.run_trial

def wild(configuration, seed):
    if seed == 22:
        os.kill(os.getpid(), signal.SIGSEGV)
    if seed == 99:
        time.sleep(10_000)
    return run(configuration, seed)

trial.run_trial = wild
"""
"""An extension with which the process of a seed dies, and that of another one hangs."""


def plain(record: Record) -> dict[str, Any]:
    """Return a result without the time that it took."""
    return {key: value for key, value in record.items() if key != "took"}


@pytest.fixture
def wild(tmp_path: Path) -> Plan:
    (tmp_path / "wild.py").write_text(WILD)
    return Plan(SHORT, extensions=(str(tmp_path / "wild.py"),))


def test_a_process_that_dies_costs_its_trial_alone(wild: Plan) -> None:
    records: list[Record] = []
    trio.run(run_local, wild, range(20, 26), 1, LONG, records.append)
    results = {record["seed"]: record for record in records}
    assert results.pop(22)["failure"] == {"kind": "died", "text": "its process ended with SIGSEGV, 2 times"}
    here = {seed: plain(run_seed(Plan(SHORT), seed)) for seed in range(20, 26) if seed != 22}
    assert {seed: plain(record) for seed, record in results.items()} == here


def test_a_process_that_hangs_is_killed_at_the_limit(wild: Plan) -> None:
    records: list[Record] = []
    trio.run(run_local, wild, [99], 1, 1.0, records.append)
    assert [record["failure"]["kind"] for record in records] == ["hung"]


def test_a_campaign_that_was_killed_goes_on_and_has_the_results_of_one_that_was_not(tmp_path: Path) -> None:
    results, figures = tmp_path / "results.jsonl", tmp_path / "figures.json"
    options = ("--seeds", "20:40", "--time", "0.1s", "--state-only", "--processes", "1")
    command = (VNET, "campaign", "--random", *options, "--results", str(results))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not (results.exists() and results.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    begun = results.read_bytes()
    results.write_bytes(begun + b'{"seed":')
    done = subprocess.run(
        [*command, "--resume", "--json", str(figures)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert results.read_bytes().startswith(begun)
    whole = json.loads(figures.read_text())
    assert (whole["done"], whole["in_this_run"]) == (20, 20 - begun.count(b"\n") + 1)
    tally = Tally(Plan(SHORT), range(20, 40))
    for seed in range(20, 40):
        tally.add(run_seed(Plan(SHORT), seed))
    assert whole["sha256"] == tally.digest()
