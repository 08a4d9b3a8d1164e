"""The command `vnet`, run as a user runs it, and systems that a test starts and ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.machine import NETNS
from support.paths import VNET

RUN_DIR = Path("/run/vnet")
PATIENCE = 60.0
READY = "Ctrl-C"
"""Stands in the last line that is printed once all is up."""
PING = ("ping", "-n", "-c", "2", "-i", "0.05", "-w", "15")
"""Succeeds once two requests are answered. (Without -w, ping takes for lost what is slower than the first.)"""

_serial = itertools.count(1)


def vnet(*args: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*prefix, VNET, *args], capture_output=True, text=True, check=False, timeout=PATIENCE)


def left_behind(name: str) -> list[str]:
    """Namespaces and files of the system ``name``."""
    return sorted(path.name for path in (*NETNS.glob(f"{name}-*"), *RUN_DIR.glob(f"{name}.*")))


class Up:
    """A ``vnet up`` that was started, and what it has printed so far."""

    def __init__(self, name: str, *args: str, prefix: tuple[str, ...] = ()) -> None:
        self.name = name
        self.text = ""
        self.process = subprocess.Popen(
            [*prefix, VNET, "up", "--name", name, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        while word not in self.text:
            line = self.process.stdout.readline()
            assert line, f"it ended: {self.text}"
            self.text += line

    def end(self, number: int | None = None) -> int:
        """Send a signal and wait; the exit status."""
        if number is not None:
            self.process.send_signal(number)
        self.text += self.process.communicate(timeout=PATIENCE)[0]
        return self.process.returncode

    def exec(self, host: str, *command: str) -> subprocess.CompletedProcess[str]:
        return vnet("exec", "--name", self.name, host, "--", *command)


@contextlib.contextmanager
def clean_machine(prefix: str) -> Iterator[list[Up]]:
    """Ends what is started, and fails if something named ``prefix`` is still there then."""
    started: list[Up] = []
    try:
        yield started
    finally:
        for each in started:
            if each.process.poll() is None:
                each.end(signal.SIGTERM)
            elif each.process.stdout is not None and not each.process.stdout.closed:
                each.end()
        left = left_behind(prefix)
        for each in started:
            vnet("down", "--name", each.name)
    assert left == []


@pytest.fixture
def name() -> str:
    return f"t{os.getpid()}-{next(_serial)}"


@pytest.fixture
def started(name: str) -> Iterator[list[Up]]:
    """Append what the test starts under its ``name``."""
    with clean_machine(name) as started:
        yield started


@pytest.fixture
def up(name: str, started: list[Up]) -> Up:
    """The built-in topology, up."""
    started.append(Up(name))
    started[0].wait_for(READY)
    return started[0]
