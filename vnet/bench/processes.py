"""Figures of a process and of the machine from /proc, and child processes that never outlive us."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from vnet.bench.figures import Machine
from vnet.errors import TrafficError

__all__ = [
    "Child",
    "answer_lines",
    "cpu_seconds",
    "end_process",
    "open_child",
    "parse_cpu_ticks",
    "parse_peak_memory",
    "peak_memory",
    "resident_memory",
    "this_machine",
]

PROC = Path("/proc")
GRACE = 5.0
"""Seconds a process has to end by itself."""
CHUNK = 65536


def parse_cpu_ticks(stat: str) -> int:
    """Clock ticks a process, with all its threads, spent in user and in system mode, from /proc/PID/stat."""
    # The name, in parentheses, may hold spaces and parentheses of its own.
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parse_peak_memory(status: str) -> int | None:
    """Bytes resident at most, from /proc/PID/status; None for a process that has ended and has no memory left."""
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def cpu_seconds(pid: int) -> float:
    """Return user and system time. Raises OSError if the process is gone."""
    return parse_cpu_ticks((PROC / str(pid) / "stat").read_text()) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int | None:
    """Return peak resident bytes; None for a zombie. Raises OSError if the process is gone."""
    return parse_peak_memory((PROC / str(pid) / "status").read_text())


def resident_memory(pid: int) -> int:
    """Return resident bytes. Raises OSError if the process is gone."""
    pages = (PROC / str(pid) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def this_machine() -> Machine:
    """Describe the machine, for readers of the figures."""
    match = re.search(r"^model name\s*:\s*(.+)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=match[1].strip() if match else platform.machine(),
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


class Child:
    """A module of ours as a child process, which answers each line with a line."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._read = b""

    async def ask(self) -> bytes:
        """Send a line and return the answer. Raises TrafficError if it has ended."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            await stdin.send_all(b"\n")
        except trio.BrokenResourceError:
            raise self._ended() from None
        return await self.line()

    async def line(self) -> bytes:
        """Return its next line. Raises TrafficError if it ends instead."""
        stdout = self._process.stdout
        assert stdout is not None
        while b"\n" not in self._read:
            data = await stdout.receive_some(CHUNK)
            if not data:
                raise self._ended()
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _ended(self) -> TrafficError:
        return TrafficError(f"{self.name} ended before its time")


@asynccontextmanager
async def open_child(module: str, args: Sequence[str], fds: Sequence[int] = ()) -> AsyncIterator[Child]:
    """Run a module as a process until the context ends; it shall end when its standard input does.

    So it also ends when this process is killed. It is in a session of its own: Ctrl-C is for us to handle.
    """
    # -P: what lies in the current directory is not imported in place of the real thing.
    process = await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", module, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=tuple(fds),
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Child(module, process)
    finally:
        await end_process(process)
        await process.stdout.aclose()


async def end_process(process: trio.Process, *, terminate: bool = False) -> None:
    """Close the standard input of a process, with ``terminate`` also send SIGTERM; after `GRACE`, kill it."""
    assert process.stdin is not None
    with trio.CancelScope(shield=True):
        await process.stdin.aclose()
        if terminate:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # it may be stopped
        with trio.move_on_after(GRACE):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answer_lines(answer: Callable[[], bytes] = lambda: b"") -> None:
    """Be such a child: write a line once all is up, and one for each line received, until standard input ends."""
    async with trio.lowlevel.FdStream(0) as requests, trio.lowlevel.FdStream(1) as answers:
        await answers.send_all(answer() + b"\n")
        async for _ in requests:
            await answers.send_all(answer() + b"\n")
