"""What /proc says of a process and of the machine, and processes of our own that never outlive us."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from vnet.bench.figures import Machine
from vnet.traffic.kernel import TrafficError

__all__ = ["Child", "cpu_seconds", "open_child", "parse_cpu_ticks", "parse_peak_memory", "peak_memory", "this_machine"]

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
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def cpu_seconds(pid: int) -> float:
    """Raises OSError when the process is gone."""
    return parse_cpu_ticks((PROC / str(pid) / "stat").read_text()) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int | None:
    """Bytes; None for a process that has ended. Raises OSError when it is gone altogether."""
    return parse_peak_memory((PROC / str(pid) / "status").read_text())


def this_machine() -> Machine:
    """What a reader needs to know of the machine."""
    found = re.search(r"^model name\s*:\s*(.+)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=found[1].strip() if found else platform.machine(),
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


class Child:
    """A module of ours that runs as a process of its own and answers on a line for a line."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._read = b""

    async def ask(self) -> bytes:
        """Its next answer. Raises TrafficError when it has ended."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            await stdin.send_all(b"\n")
        except trio.BrokenResourceError:
            raise self._ended() from None
        return await self.line()

    async def line(self) -> bytes:
        """What it says unasked. Raises TrafficError when it ends instead."""
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
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(GRACE):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()
