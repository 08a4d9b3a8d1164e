"""Long work shows a bar on a terminal, and nothing of it anywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import threading

import pytest

from support.cli import vnet
from support.paths import VNET

DEMO = ("demo", "--port", "memory", "--seconds", "1")
BENCH = ("bench", "--suite", "rpmsg", "--rounds", "1", "--seconds", "1")


def run_on_terminal(*args: str) -> tuple[int, str, str]:
    """Run a command whose standard error is a terminal. Return its status, its output, and the terminal's text."""
    reader, writer = pty.openpty()
    parts: list[bytes] = []

    def collect() -> None:
        try:
            while data := os.read(reader, 1 << 16):
                parts.append(data)
        except OSError:  # the command has ended
            pass

    collector = threading.Thread(target=collect)
    collector.start()
    done = subprocess.run(
        [VNET, *args],
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(writer)
    collector.join()
    os.close(reader)
    return done.returncode, done.stdout, b"".join(parts).decode()


@pytest.fixture(scope="module")
def demo_on_terminal() -> tuple[int, str, str]:
    return run_on_terminal(*DEMO)


@pytest.fixture(scope="module")
def demo_elsewhere() -> subprocess.CompletedProcess[str]:
    return vnet(*DEMO)


@pytest.mark.parametrize(("command", "label"), [("demo", "demo ["), ("bench", "rpmsg [")])
def test_a_terminal_has_a_bar_and_the_output_has_not(
    command: str, label: str, demo_on_terminal: tuple[int, str, str]
) -> None:
    status, output, shown = demo_on_terminal if command == "demo" else run_on_terminal(*BENCH)
    assert status == 0
    assert label in shown
    assert shown.endswith("\r\x1b[K"), "it is erased at the end"
    assert "\x1b" not in output
    assert label not in output


def test_without_a_terminal_there_is_no_bar(demo_elsewhere: subprocess.CompletedProcess[str]) -> None:
    assert (demo_elsewhere.returncode, demo_elsewhere.stderr) == (0, "")
    assert "\x1b" not in demo_elsewhere.stdout


def test_the_lines_of_the_output_are_the_same_with_and_without_a_bar(
    demo_on_terminal: tuple[int, str, str], demo_elsewhere: subprocess.CompletedProcess[str]
) -> None:
    def starts(text: str) -> list[str]:
        return [line.split(" ... ")[0] for line in text.splitlines() if " ... " in line]

    _, output, _ = demo_on_terminal
    assert starts(output) == starts(demo_elsewhere.stdout)
    assert starts(output)


def test_bench_has_the_options_of_the_log() -> None:
    done = vnet("bench", "-q", "-v")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "Error: --quiet and --verbose exclude each other")
