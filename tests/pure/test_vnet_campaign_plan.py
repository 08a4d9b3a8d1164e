"""The seeds of a campaign as text, and the commands that repeat it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.paths import TOPOLOGIES
from vnet.campaign import plan as module
from vnet.campaign.plan import Plan, code_version, parse_seeds
from vnet.errors import ConfigError
from vnet.sim.configuration import Configuration

SHORT = Configuration(seconds=0.5, loads=("blk",), check=True)


def test_seeds_are_a_range() -> None:
    assert parse_seeds("0:100000") == range(100000)
    assert parse_seeds("7:8") == range(7, 8)


@pytest.mark.parametrize("text", ["", "5", "5:5", "9:3", ":4", "4:", "-1:4", "0:1:2", "0x1:4", "a:b", "1.0:2"])
def test_other_texts_are_no_seeds(text: str) -> None:
    with pytest.raises(ValueError, match="must be FIRST:END, such as 0:1000"):
        parse_seeds(text)


def test_a_range_that_no_machine_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at most 10000000 seeds"):
        parse_seeds("0:99999999999")


def test_a_trial_and_the_campaign_are_repeated_by_commands() -> None:
    plan = Plan(SHORT, extensions=("/my device.py",))
    options = "--time 0.5s --load blk --check"
    assert Plan(SHORT).command(7) == f"vnet sim --random --seed 7 {options}"
    assert plan.command(7) == f"vnet --load '/my device.py' sim --random --seed 7 {options}"
    assert plan.campaign(range(9)) == f"vnet --load '/my device.py' campaign --random --seeds 0:9 {options}"


def test_a_plan_has_the_text_of_its_topology_and_not_the_file() -> None:
    text = (TOPOLOGIES / "blk.toml").read_text(encoding="utf-8")
    plan = Plan(Configuration(source="gone.toml"), text)
    topology = plan.open().topology
    assert topology is not None
    assert "disk0" in topology.devices
    with pytest.raises(ConfigError, match=r"^gone.toml: hosts.a.memory"):
        Plan(Configuration(source="gone.toml"), "[hosts.a]\nmemory = 0\n").open()


def test_the_identity_has_all_that_results_depend_on(tmp_path: Path) -> None:
    extension = tmp_path / "a.py"
    extension.write_text("")
    identity = Plan(SHORT, "[hosts.a]", (str(extension),)).identity()
    assert json.loads(json.dumps(identity)) == identity
    extension.write_text("1")
    assert Plan(SHORT, "[hosts.a]", (str(extension),)).identity() != identity
    assert {"wire", "seconds", "loads", "check", "topology", "version", "commit", "trio"} <= identity.keys()


def test_an_installation_without_a_clone_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError

    code_version.cache_clear()
    monkeypatch.setattr(subprocess, "run", fail)
    assert code_version()["commit"] == ""
    code_version.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(module, "HERE", Path("/usr/lib/python3/vnet/campaign"))
    assert code_version()["commit"] == ""
    code_version.cache_clear()
