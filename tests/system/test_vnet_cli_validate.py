"""vnet validate and vnet up, as a user runs them on a file with several problems."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.cli import PATIENCE, vnet
from support.paths import VNET
from vnet.topology import DEFAULT

BAD = f"{DEFAULT}mtu = 1\nqueue_sise = 2\n[hosts.x]\nmemory = 0\n"
PROBLEMS = [
    "devices.net0.mtu = 1: must be between 68 and 65521 (bytes)",
    "devices.net0.queue_sise = 2: unknown key; did you mean queue_size? known are ",
    "hosts.x.memory = 0: must be between 1 and 61440 (MiB)",
]


def check(done: subprocess.CompletedProcess[str], file: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert len(lines) == len(PROBLEMS)
    for problem in PROBLEMS:
        assert any(line.startswith(f"vnet: {file}: {problem}") for line in lines)


@pytest.mark.parametrize("command", ["validate", "up"])
def test_all_problems_of_a_file_are_reported(command: str, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(BAD, encoding="utf-8")
    check(vnet(command, str(path)), str(path))


@pytest.mark.parametrize("command", ["validate", "up"])
def test_all_problems_of_standard_input_are_reported(command: str) -> None:
    argv = [VNET, command, "-"]
    done = subprocess.run(argv, input=BAD, capture_output=True, text=True, check=False, timeout=PATIENCE)
    check(done, "standard input")


def test_a_valid_file_is_ok() -> None:
    argv = [VNET, "validate", "-"]
    done = subprocess.run(argv, input=DEFAULT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "standard input: ok\n", "")
