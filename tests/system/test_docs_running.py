"""The commands of docs/running.md do what the page says. `test_docs` plays the other pages."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support.machine import RequireTool
from support.paths import BIN, ROOT

PAGE = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
NOT_SERVED = 7
"""Exit status of curl without a listener: it did reach the other host."""


def block(after: str) -> list[str]:
    """The lines of the first shell block behind these words, with the commands of this environment."""
    actual = re.search(r"```sh\n(.*?)```", PAGE[PAGE.index(after) :], flags=re.DOTALL)
    assert actual is not None
    return [line.replace(".venv/bin/", f"{BIN}/") for line in actual[1].splitlines()]


def run(line: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=280, cwd=cwd, check=False)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("line", block("## Demo"), ids=lambda line: line.split("vnet ")[1])
def test_every_demo_ends_well(line: str, require_tool: RequireTool, tmp_path: Path) -> None:
    """With shorter runs than by default, which `test_docs` has: those of README."""
    require_tool("ping", "iperf3")
    done = run(f"{line} --seconds 1", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize(
    "line", block("The other device types have a demo each"), ids=lambda line: line.split("vnet ")[1]
)
def test_every_demo_of_another_device_ends_well(line: str, require_tool: RequireTool, tmp_path: Path) -> None:
    require_tool("nbdcopy", "fio")
    done = run(f"{line} --seconds 1 --json figures.json", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    runs = [run for section in report.values() if isinstance(section, list) for run in section if "result" in run]
    assert len(runs) >= 5
    assert not any(run["result"]["failed"] or "left out" in run["result"]["text"] for run in runs)
    assert not report["drops"]


@pytest.mark.usefixtures("no_leaks")
def test_a_demo_leaves_out_what_programs_are_missing_for_and_says_so(tmp_path: Path) -> None:
    done = run(f"PATH={tmp_path} {BIN / 'vnet'} demo --device blk --seconds 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("left out: not installed: nbdcopy; try: sudo apt-get install -y libnbd-bin") == 4
    assert done.stdout.count("left out: not installed: fio") == 4


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(
    ("options", "status", "output"),
    [
        ("--device blk --port tap", 2, "--port requires --device net"),
        ("--device blk --mode mediated", 1, "a blk device has no peer driver at its own end: use direct"),
        ("--device rpmsg --transport mmio --mode mediated", 1, "transport mmio is within one host"),
    ],
)
def test_a_demo_that_can_not_be_says_why(options: str, status: int, output: str) -> None:
    done = run(f"{BIN / 'vnet'} demo {options}")
    assert done.returncode == status
    assert output in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_a_system_that_stays_up_obeys_every_line(require_tool: RequireTool) -> None:
    require_tool("ping", "ip", "curl")
    plain, _, once = block("## Systems that stay up")
    with subprocess.Popen(plain, shell=True, stdout=subprocess.PIPE, text=True, process_group=0) as up:
        try:
            assert up.stdout is not None
            assert up.stdout.readline() == "vnet is up. In another shell:\n"
            for line in block("While one runs"):
                done = run(line)
                assert done.returncode == (NOT_SERVED if "curl" in line else 0), (line, done.stdout, done.stderr)
            assert up.wait(60) == 0, "the last line ends it"
        finally:
            if up.poll() is None:
                up.send_signal(signal.SIGTERM)
    assert run(once).returncode == 0


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_a_network_device_is_changed_as_every_line_says(require_tool: RequireTool) -> None:
    require_tool("ip")
    [start], lines = block("## Network devices"), block("In another shell:\n")
    with subprocess.Popen(start, shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0) as up:
        try:
            assert up.stdout is not None
            assert up.stdout.readline() == "vnet is up. In another shell:\n"
            shown = ""
            for line in lines:
                done = run(line)
                assert (done.returncode, done.stderr) == (0, ""), line
                shown = done.stdout
            assert "pairs of queues 2 of 4, offloads csum tso4" in shown
        finally:
            run(f"{BIN}/vnet down")
            assert up.wait(60) == 0


@pytest.mark.usefixtures("privileged", "no_leaks")
@pytest.mark.parametrize("line", block("## SCSI"), ids=["example", "show"])
def test_logical_units_are_found_and_shown(line: str) -> None:
    done = run(line)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3:300" in done.stdout


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_a_named_system_from_a_file_comes_up_and_goes(require_tool: RequireTool) -> None:
    require_tool("ip")
    line = block("## Systems that stay up")[1]
    assert run(f"{line} --exec true").returncode == 0
