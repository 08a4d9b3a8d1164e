"""Every page of docs/ does what it says: its blocks are run, in order, as a reader would. So do README's programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.docs import blocks, play
from support.machine import RequireTool
from support.paths import BIN

ROOT = Path(__file__).parents[2]
OWN_TEST = {"running.md", "own-function.md"}
"""Pages with a test file of their own."""
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if page.name not in OWN_TEST and any(b.language == "sh" for b in blocks(page.read_text(encoding="utf-8")))
]


README = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
DEMOS = [line for block in README if block.language == "sh" for line in block.text.splitlines() if "vnet demo" in line]
PROGRAMS = [block.text for block in README if block.language == "python"]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("line", DEMOS, ids=lambda line: line.rpartition("/")[2])
def test_a_demo_of_the_readme_ends_well_once_the_package_is_installed(line: str, require_tool: RequireTool) -> None:
    require_tool("ping", "iperf3")
    command = line.rpartition("&& ")[2].replace(".venv/bin/", f"{BIN}/")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("program", PROGRAMS, ids=["ping"])
def test_the_program_of_the_readme_runs(program: str, require_tool: RequireTool) -> None:
    require_tool("ping")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "sent=5, received=5" in done.stdout


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs").with_suffix("")))
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "vnet mount " in page.read_text(encoding="utf-8"):
        request.getfixturevalue("fuse")
    play(page, tmp_path)
