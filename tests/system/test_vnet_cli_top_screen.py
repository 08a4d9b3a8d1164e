"""``vnet top`` on a terminal follows a system and its keys; without one it prints."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyte
import pytest

from support.cli import PATIENCE, Up, vnet
from support.paths import VNET

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
ENVIRONMENT["TERM"] = "linux"
"""The terminal that pyte emulates, whose size is that of the pty."""


class Terminal:
    """A terminal with ``vnet top`` on it."""

    def __init__(self, fd: int, pid: int, rows: int, columns: int) -> None:
        self.pid = pid
        self._fd = fd
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    def wait_for(self, condition: Callable[[str], bool]) -> str:
        """Return the text of the screen once it meets the condition."""
        end = time.monotonic() + PATIENCE
        while not condition(text := "\n".join(self._screen.display)):
            assert time.monotonic() < end, text
            if select.select([self._fd], [], [], 0.1)[0]:
                self._stream.feed(os.read(self._fd, 1 << 16))
        return text

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def resize(self, rows: int, columns: int) -> None:
        self._screen.resize(rows, columns)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ended(self) -> int:
        """Return the exit status, once the command has ended."""
        end = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < end
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self._stream.feed(os.read(self._fd, 1 << 16))
                except OSError:  # its other end is closed
                    time.sleep(0.05)


@contextmanager
def terminal(*args: str, rows: int = 30, columns: int = 130) -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(str(VNET), ["vnet", "top", *args], ENVIRONMENT)
    opened = Terminal(fd, pid, rows, columns)
    opened.resize(rows, columns)
    try:
        yield opened
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(fd)


pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")


def test_it_follows_the_system_and_obeys_its_keys(up: Up) -> None:
    with terminal("--name", up.name, "--interval", "0.2") as screen:
        text = screen.wait_for(lambda text: text.count("controlq") == 2)
        assert text.startswith(f"{up.name}: pcie0 up; rates over ")
        assert "net0: net over pci, up; restarts 0" in text
        screen.press(b"ssssss")
        screen.wait_for(lambda text: "sorted by bit/s" in text)
        screen.press(b"\x1b[D")  # arrow to the left
        screen.wait_for(lambda text: "sorted by pkt/s" in text)
        screen.press(b"r")
        screen.wait_for(lambda text: "sorted by pkt/s, reversed" in text)
        vnet("link", "--name", up.name, "down")
        screen.wait_for(lambda text: "net0: net over pci, down (" in text and "pcie0 down" in text)
        screen.press(b" ")
        screen.wait_for(lambda text: "paused" in text)
        vnet("link", "--name", up.name, "up")
        screen.press(b" ")
        screen.wait_for(lambda text: "net0: net over pci, up" in text and "paused" not in text)
        screen.resize(8, 40)
        screen.wait_for(lambda text: "q quit" in text and len(text.splitlines()) == 8)
        screen.press(b"q")
        assert screen.ended() == 0


def test_it_ends_in_one_line_with_its_system(up: Up) -> None:
    with terminal("--name", up.name, "--interval", "0.2") as screen:
        screen.wait_for(lambda text: "transmitq1" in text)
        assert up.end(signal.SIGTERM) == 0
        text = screen.wait_for(lambda text: "vnet: " in text)
        assert "Traceback" not in text
        assert screen.ended() == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 129)])
def test_a_signal_restores_the_terminal(up: Up, number: signal.Signals, status: int) -> None:
    with terminal("--name", up.name) as screen:
        screen.wait_for(lambda text: "transmitq1" in text)
        os.kill(screen.pid, number)
        assert screen.ended() == status


def test_without_a_terminal_it_prints(up: Up) -> None:
    with subprocess.Popen(
        [VNET, "exec", "--name", up.name, "rc", "--", "ping", "-i", "0.01", "198.18.0.2"], stdout=subprocess.DEVNULL
    ) as ping:
        done = vnet("top", "--name", up.name, "--once")
        lines = vnet("top", "--name", up.name, "--once", "--json").stdout.splitlines()
        ping.send_signal(signal.SIGINT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 11
    assert len(lines) == 1
    rows = {(row["side"], row["queue"]): row for row in json.loads(lines[0])["queues"]}
    assert rows["driver", "transmitq1"]["packets"] > 1
    assert rows["device", "receiveq1"]["packets"] > 1
    assert rows["driver", "controlq"]["packets"] == 0


def test_a_terminal_that_curses_does_not_know_is_one_line(up: Up) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(str(VNET), ["vnet", "top", "--name", up.name], {**ENVIRONMENT, "TERM": "moon"})
    screen = Terminal(fd, pid, 24, 80)
    screen.wait_for(lambda text: "vnet: no cursor control: TERM='moon'; try: vnet top --once" in text)
    assert screen.ended() == 1
    os.close(fd)


def test_a_system_that_does_not_run_is_one_line() -> None:
    done = vnet("top", "--name", "moon", "--once")
    assert (done.returncode, done.stderr) == (1, "vnet: moon is not running; try: vnet up --name moon\n")
