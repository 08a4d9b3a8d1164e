"""``vnet sim``: what it prints, its files, its exit status, and its errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.paths import TOPOLOGIES
from vnet.cli import sim
from vnet.ports.disk.store import MemoryStore


def run(*args: str) -> Result:
    return CliRunner().invoke(sim.command, list(args))


def test_the_seed_comes_first_and_the_same_seed_gives_the_same_output() -> None:
    results = [run("--random", "--seed", "21", "--time", "300ms") for _ in range(2)]
    assert results[0].exit_code == 0, results[0].output
    assert results[0].output.splitlines()[0] == "seed 21"
    assert results[0].output == results[1].output
    assert "blk0    blk   pci        packed  direct" in results[0].output


def test_a_seed_is_chosen_if_none_is_given() -> None:
    seeds = {run(str(TOPOLOGIES / "blk.toml"), "--time", "0.1s").output.splitlines()[0] for _ in range(2)}
    assert len(seeds) == 2


def test_the_log_and_the_figures_are_written(tmp_path: Path) -> None:
    log, figures = tmp_path / "log", tmp_path / "figures.json"
    args = ("--seed", "1", "--time", "0.3s", "--log", str(log), "--json", str(figures), "--state-only", "--check")
    result = run(str(TOPOLOGIES / "faulty_link.toml"), *args)
    assert result.exit_code == 0, result.output
    written = json.loads(figures.read_text())
    assert written["events"] == len(log.read_text().splitlines())
    assert written["configuration"]["source"] == str(TOPOLOGIES / "faulty_link.toml")
    assert written["hash"] in result.output


def test_a_failure_prints_its_repetition_and_a_shorter_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read, calls = MemoryStore.preadv, [0]

    def preadv(self: MemoryStore, segs: Sequence[memoryview], offset: int, /) -> int:
        size = read(self, segs, offset)
        calls[0] += 1
        segs[0][0] ^= calls[0] % 7 == 0
        return size

    monkeypatch.setattr(MemoryStore, "preadv", preadv)
    figures = tmp_path / "figures.json"
    faults = ("--fault", "0.05:pcie0:flap:0.01", "--fault", "0.1:blk0:rebind:0.01")
    result = run("--random", "--seed", "20", "--time", "2s", *faults, "--json", str(figures))
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith("vnet: data: blk on blk0: byte ")
    repeat = f"vnet sim --random --seed 20 --time 2s {' '.join(faults)}"
    assert lines[1] == f"vnet: to repeat it: {repeat}"
    assert lines[2] == "vnet: with 0 of 2 faults: vnet sim --random --seed 20 --time 2s --no-faults"
    assert json.loads(figures.read_text())["repeat"] == repeat


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "give either a TOPOLOGY file or --random"),
        (("--random", "file"), "give either a TOPOLOGY file or --random"),
        (("file", "--wire"), "--wire needs --random: a TOPOLOGY file has its own links"),
        (("--random", "--fault", "1:pcie0:flap:1", "--no-faults"), "--fault and --no-faults exclude each other"),
        (("--random", "--time", "1"), "'1': must be above 0 and at most 24h, such as 500ms, 90s, 10m or 1h"),
        (("--random", "--time", "25h"), "'25h': must be above 0 and at most 24h"),
        (("--random", "--load", "ping,pong"), "'pong' is no load: known are ping, tcp, rpmsg, blk, scsi"),
        (("--random", "--seed", "1", "--fault", "1:net0:flap:1"), "flap needs a link, one of pcie0"),
    ],
)
def test_wrong_arguments_are_one_line_each(args: Sequence[str], text: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_part_in_another_process_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    file.write_text('[hosts.a]\n[devices.d]\ntype = "net"\nhost = "a"\ntransport = "vhost_user"\nsocket = "S"\n')
    result = run(str(file))
    assert result.exit_code == 1
    why = "must be absent: a simulation cannot run another process"
    assert result.stderr == f"vnet: {file}: devices.d.socket = 'S': {why}\n"
