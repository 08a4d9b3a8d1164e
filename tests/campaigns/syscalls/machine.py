"""Starts the processes in which system calls fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from support.children import environment

__all__ = ["Fault", "Process", "Server", "build_shim", "report", "serving"]

SOURCE = Path(__file__).with_name("shim.c")


@attrs.frozen
class Fault:
    """A system call that fails: where, with which error, and the number of the call there, from 1."""

    site: str
    error: int
    number: int = 1

    def __str__(self) -> str:
        return f"{self.site}: {errno_name(self.error)}, call {self.number}"


def errno_name(number: int) -> str:
    import errno

    return errno.errorcode[number]


def build_shim(folder: Path) -> Path:
    """Compile the shim. Raises CalledProcessError with the compiler's output."""
    path = folder / "shim.so"
    subprocess.run(
        ["cc", "-O1", "-shared", "-fPIC", "-fno-builtin", "-o", path, SOURCE, "-ldl"], check=True, capture_output=True
    )
    return path


@attrs.define
class Process:
    """A command of vnet that runs."""

    pid: int
    folder: Path
    _server: Server
    _status: int | None = None

    def output(self, name: str = "out") -> str:
        """Return what it wrote to ``out`` or ``err`` so far."""
        return (self.folder / name).read_text(encoding="utf-8", errors="replace")

    def status(self, seconds: float = 0) -> int | None:
        """Wait for its end at most ``seconds``; return the exit status, negative for a signal, None while it runs."""
        if self._status is None:
            line = self._server.read(seconds)
            self._status = None if line is None else os.waitstatus_to_exitcode(int(line))
        return self._status

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._status is None:
            os.kill(self.pid, number)

    def files(self) -> list[str]:
        """Return the kinds of its open files."""
        return sorted(_targets(Path(f"/proc/{self.pid}/fd")))


def _targets(folder: Path) -> Iterator[str]:
    for entry in folder.iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        yield target.partition("[")[0].partition(":[")[0]


class Server:
    """A process with the modules that a command imports, which forks for each."""

    def __init__(self, shim: Path, modules: Sequence[str] = ()) -> None:
        self.modules = list(modules)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "campaigns.syscalls.child", str(shim)],
            env=environment(LD_PRELOAD=str(shim)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._from.fileno(), False)
        self._rest = b""

    def start(self, argv: Sequence[str], folder: Path, fault: Fault | None) -> Process:
        job = {
            "argv": list(argv),
            "folder": str(folder),
            "modules": self.modules,
            "fault": None if fault is None else [fault.site, fault.error, fault.number],
        }
        for name in ("out", "err", "report"):
            (folder / name).write_bytes(b"")
        self._to.write(json.dumps(job).encode() + b"\n")
        self._to.flush()
        line = self.read(60)
        assert line is not None, "the server of processes has ended"
        return Process(int(line), folder, self)

    def read(self, seconds: float) -> str | None:
        """Return the next line; None if it does not come within the time. Raises RuntimeError at the end."""
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            data = self._from.read(4096)
            if data == b"":
                raise RuntimeError("the server of processes has ended")
            if data:
                self._rest += data
            elif time.monotonic() >= end:
                return None
            else:
                time.sleep(0.005)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        self._to.close()
        self._process.wait(60)
        self._from.close()


@contextmanager
def serving(shim: Path, modules: Sequence[str] = ()) -> Iterator[Server]:
    server = Server(shim, modules)
    try:
        yield server
    finally:
        server.close()


def report(folder: Path) -> Any:
    """Return what the process reported: "hit", its call sites, or nothing."""
    text = (folder / "report").read_text(encoding="utf-8")
    return "hit" if text.startswith("hit") else json.loads(text) if text else None
