"""``vnet campaign``: what it prints, its files, its exit status, and its errors. The trials run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from support.packages import hide
from support.paths import TOPOLOGIES
from vnet.campaign import trial
from vnet.campaign.plan import Plan
from vnet.campaign.trial import Record, run_seed
from vnet.cli import campaign
from vnet.sim.configuration import Configuration
from vnet.sim.trial import run_trial

SEEDS = ("--seeds", "20:26", "--time", "0.1s", "--state-only")
RANDOM = ("--random", *SEEDS)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(
        plan: Plan, seeds: Iterable[int], processes: int, limit: float, take: Callable[[Record], object]
    ) -> None:
        for seed in seeds:
            take(await trio.to_thread.run_sync(run_seed, plan, seed))

    monkeypatch.setattr(campaign, "run_local", run)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def run(file: Path, *args: str) -> Result:
    return CliRunner().invoke(campaign.command, [*args, "--results", str(file)])


def fail_seeds(monkeypatch: pytest.MonkeyPatch, *seeds: int) -> None:
    def lie(configuration: Configuration, seed: int) -> Record:
        failure = {"kind": "data", "text": "byte 5 is wrong"} if seed in seeds else None
        return {**run_trial(configuration, seed), "failure": failure}

    monkeypatch.setattr(trial, "run_trial", lie)


def test_counters_are_printed_and_written(file: Path, tmp_path: Path) -> None:
    result = run(file, *RANDOM, "--json", str(tmp_path / "figures.json"))
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == "6 of 6 seeds done, 0 failed"
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["done"], figures["missing"], figures["failed"]) == (6, "", 0)
    assert figures["command"] == "vnet campaign --random --seeds 20:26 --time 0.1s --state-only"
    assert {"commit", "version", "python", "machine", "began", "ended"} <= figures.keys()
    assert figures["sha256"] in result.output
    records = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert [record["seed"] for record in records] == list(range(20, 26))


def test_a_campaign_goes_on_without_the_seeds_that_are_done(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(file, *RANDOM).output
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    ran: list[int] = []

    def count(configuration: Configuration, seed: int) -> Record:
        ran.append(seed)
        return run_trial(configuration, seed)

    monkeypatch.setattr(trial, "run_trial", count)
    result = run(file, *RANDOM, "--resume")
    assert ran == [23, 24, 25]
    assert result.output.splitlines()[0] == "3 of 6 seeds are done; half a line of 20 bytes was removed"
    assert result.output.splitlines()[-1] == whole.splitlines()[-1]
    more = run(file, "--random", "--seeds", "20:28", *SEEDS[2:], "--resume")
    assert more.output.splitlines()[:2] == ["6 of 8 seeds are done", "8 of 8 seeds done, 0 failed"]


def test_failures_are_listed_with_their_repetition(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_seeds(monkeypatch, 21, 25)
    result = run(file, *RANDOM)
    assert result.exit_code == 1
    assert result.stderr == "vnet: seed 21: data: byte 5 is wrong\nvnet: seed 25: data: byte 5 is wrong\n"
    assert result.stdout.endswith(
        "\n\nfailed\n"
        "seed 21: data: byte 5 is wrong\n  vnet sim --random --seed 21 --time 0.1s --state-only\n"
        "seed 25: data: byte 5 is wrong\n  vnet sim --random --seed 25 --time 0.1s --state-only\n"
    )


def test_a_topology_file_is_read_once_and_its_text_belongs_to_the_campaign(file: Path, tmp_path: Path) -> None:
    topology = tmp_path / "blk.toml"
    topology.write_text((TOPOLOGIES / "blk.toml").read_text())
    assert run(file, str(topology), *SEEDS).exit_code == 0
    topology.write_text(topology.read_text() + "\n")
    result = run(file, str(topology), *SEEDS, "--resume")
    assert result.exit_code == 1
    assert "results of another campaign: its topology differs; it was: vnet campaign" in result.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (SEEDS, "give either a TOPOLOGY file or --random"),
        (("file", "--wire", *SEEDS), "--wire needs --random: a TOPOLOGY file has its own links"),
        (("--random",), "Missing option '--seeds'"),
        (("--random", "--seeds", "9:3"), "'9:3': must be FIRST:END, such as 0:1000 for the seeds 0 to 999"),
        ((*RANDOM, "--limit", "1"), "'1': must be above 0 and at most 24h"),
        ((*RANDOM, "--backend", "ray", "--processes", "2"), "--processes is for the backend local"),
        ((*RANDOM, "--address", "auto"), "--address is for the backend ray"),
    ],
)
def test_wrong_arguments_are_one_line_each(file: Path, args: Sequence[str], text: str) -> None:
    result = run(file, *args)
    assert result.exit_code == 2
    assert text in result.stderr
    assert not file.exists()


def test_a_file_that_cannot_be_simulated_is_one_line(file: Path, tmp_path: Path) -> None:
    missing = run(file, str(tmp_path / "no.toml"), *SEEDS)
    assert (missing.exit_code, missing.stderr) == (1, f"vnet: {tmp_path / 'no.toml'}: No such file or directory\n")
    topology = tmp_path / "t.toml"
    topology.write_text('[hosts.a]\n[devices.d]\ntype = "net"\nhost = "a"\ntransport = "vhost_user"\nsocket = "S"\n')
    result = run(file, str(topology), *SEEDS)
    why = "must be absent: a simulation cannot run another process"
    assert (result.exit_code, result.stderr) == (1, f"vnet: {topology}: devices.d.socket = 'S': {why}\n")
    assert not file.exists()


def test_a_missing_package_is_one_line_and_names_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "ray", "vnet.campaign.cluster")
    result = run(file, *RANDOM, "--backend", "ray")
    assert result.exit_code == 1
    assert result.stderr == "vnet: not installed: ray; try: pip install 'vnet-virtio[ray]'\n"
    assert not file.exists()
