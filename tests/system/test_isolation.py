"""A short form of `python -m tests.isolation`: an attack on a queue and one on a socket; the run leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from isolation.page import figures
from isolation.table import ATTACKS

from support.paths import ROOT


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_the_victim_of_an_attack_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    argv = [
        "-m",
        "tests.isolation",
        "long_chains",
        "connections",
        "--seconds",
        "0.1",
        "--rounds",
        "1",
        "--json",
        str(file),
    ]
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert [row["attack"] for row in rows] == ["long_chains", "connections"]
    for row in rows:
        assert all(row[name]["rounds"][0]["requests"] > 0 for name in ("alone", "apart", "together"))
        assert all(count > 0 for name in ("apart", "together") for count in row[name]["actions"])
    text = figures(file)
    assert text.count("not run") == len(ATTACKS) - 2
    assert " of 2 attacks on its own process, and " in text
