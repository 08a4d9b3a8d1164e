"""Every example and every example topology runs as it is, but for sockets in /tmp."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.machine import RequireTool
from support.paths import ROOT, VNET
from support.topologies import moved_to

EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py")
WITH_OTHERS = {"vhost_user_blk.toml"}
"""Topologies that need another program; tests/system/test_drivers_transports_vhost_user_front.py runs them."""
TOPOLOGIES = sorted(p for p in (ROOT / "examples" / "topologies").glob("*.toml") if p.name not in WITH_OTHERS)


def run(*argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False)


@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs_as_it_is(path: Path, require_tool: RequireTool) -> None:
    require_tool("ping")
    done = run(sys.executable, str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.name)
def test_every_topology_comes_up_and_leaves_nothing_behind(
    path: Path, require_tool: RequireTool, tmp_path: Path
) -> None:
    require_tool("ping", "ip")
    topology, text = tmp_path / path.name, path.read_text(encoding="utf-8")
    topology.write_text(moved_to(tmp_path, text))
    quiet = ["-q"] if "faults =" in text else []  # the log tells what a faulty link loses
    done = run(VNET, "up", *quiet, str(topology), "--name", f"ex-{path.stem.replace('_', '-')}", "--exec", "true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_the_devices_of_a_file_of_ones_own_come_up(require_tool: RequireTool) -> None:
    require_tool("ip")
    options = "--name", "ex-mine", "--exec", "true"
    done = run(VNET, "--load", "examples/my_device.py", "up", "examples/my_device.toml", *options)
    assert (done.returncode, done.stderr) == (0, "")
