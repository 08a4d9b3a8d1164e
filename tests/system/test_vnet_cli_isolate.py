"""``vnet serve --isolate`` as its user meets it: a device whose process is killed comes back."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.cli import PATIENCE, RUN_DIR, Up, vnet
from support.docs import blocks, same_shape
from support.machine import RequireTool
from support.paths import BIN, ROOT, VNET
from support.topologies import VHOST_USER_DISK

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

FRONT = VHOST_USER_DISK + 'driver = {{ nbd = "{nbd}" }}\n'


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes() -> dict[str, dict[str, object]]:
    """The processes that the supervisor shows."""
    shown = vnet("show", "--name", "t-all", "--json")
    assert shown.returncode == 0, shown.stderr
    views: dict[str, dict[str, object]] = json.loads(shown.stdout)["processes"]
    return views


@contextmanager
def isolated(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Serve two disks, ``t-a`` and ``t-b``; the supervisor, and the file with its reports."""
    parts: list[str] = []
    for name in ("t-a", "t-b"):
        image = folder / f"{name}.img"
        image.write_bytes(bytes(1 << 20))
        parts += ["--and", "blk", "--vhost-user", str(folder / f"{name}.sock"), "--file", str(image), *options]
    argv, reports = [VNET, "serve", "--isolate", "--name", "t-all", *parts[1:]], folder / "reports"
    with (
        reports.open("w") as errors,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            assert any("2 devices, each in a process of its own" in line for line in process.stdout)
            yield process, reports
        finally:
            process.terminate()
            process.wait(PATIENCE)
    assert "Traceback" not in reports.read_text()


def test_a_driver_goes_on_after_the_process_of_its_disk_was_killed(tmp_path: Path, require_tool: RequireTool) -> None:
    """In the sandbox, and the sibling's process is the same one all the time."""
    require_tool("nbdcopy")
    content = random.Random(18).randbytes(1 << 20)
    (tmp_path / "in").write_bytes(content)
    front, nbd = tmp_path / "front.toml", f"nbd+unix:///disk0?socket={tmp_path / 'nbd.sock'}"
    front.write_text(FRONT.format(path=tmp_path / "t-a.sock", nbd=tmp_path / "nbd.sock"))
    with isolated(tmp_path, "--sandbox", "strict") as (supervisor, reports):
        before = processes()
        assert {name: each["system"] for name, each in before.items()} == {
            "blk0": "serve-blk-t-a",
            "blk1": "serve-blk-t-b",
        }
        up = Up("t-front", str(front))
        try:
            up.wait_for("Ctrl-C")
            subprocess.run(["nbdcopy", "--flush", tmp_path / "in", nbd], check=True, timeout=PATIENCE)
            pid = before["blk0"]["pid"]
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)
            subprocess.run(["nbdcopy", nbd, tmp_path / "out"], check=True, timeout=PATIENCE)
        finally:
            assert up.end(signal.SIGTERM) == 0
        assert (tmp_path / "out").read_bytes() == content
        after = processes()
        assert after["blk1"]["pid"] == before["blk1"]["pid"]
        assert (after["blk0"]["restarts"], after["blk0"]["last_end"]) == (1, "was killed by SIGKILL")
        assert after["blk0"]["system"] == "serve-blk-t-a"
        assert reports.read_text().count("it starts again") == 1
        assert vnet("down", "--name", "t-all").stdout == "t-all is down\n"
        assert supervisor.wait(PATIENCE) == 0
    assert not [*RUN_DIR.glob("*t-*"), *tmp_path.glob("*.sock")]


def test_the_lines_of_the_page_are_true_and_nothing_is_left_if_the_supervisor_is_killed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "running.md").read_text(encoding="utf-8").partition("## A process for each device")[2]
    command, ready, shown = (block.text for block in blocks(page)[:3])
    argv = shlex.split(command.replace(".venv/bin/", f"{BIN}/"))
    with subprocess.Popen(
        argv, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as supervisor:
        try:
            assert supervisor.stdout is not None
            assert ready in supervisor.stdout
            assert same_shape(shown, vnet("show", "--name", "serve").stdout)
            supervisor.kill()
            until(lambda: not [*RUN_DIR.glob("serve*"), *tmp_path.glob("*.sock")])
        finally:
            supervisor.kill()
