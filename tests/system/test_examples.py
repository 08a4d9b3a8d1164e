"""Every example and every example topology runs as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from machine import RequireTool

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py")
TOPOLOGIES = sorted((ROOT / "examples" / "topologies").glob("*.toml"))


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
def test_every_topology_comes_up_and_leaves_nothing_behind(path: Path, require_tool: RequireTool) -> None:
    require_tool("ping", "ip")
    vnet = str(Path(sys.executable).with_name("vnet"))
    done = run(vnet, "up", str(path.relative_to(ROOT)), "--name", f"ex-{path.stem.replace('_', '-')}", "--exec", "true")
    assert (done.returncode, done.stderr) == (0, "")
