"""``python -m campaigns.syscalls.child SHIM``: runs commands of ``vnet``, in each of which one system call fails.

A server, which imports what the commands need and forks for each. It reads a JSON line for each command, and prints the
process's id, then its exit status.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from campaigns.syscalls.errors import errors_of, kind_of

OWN = ("rings", "drivers", "vnet")
"""Packages whose code is tested: a call site is named by its places in them."""
PLACES = 2
"""Places of a call site in the packages: the line that calls, and the line that calls its function."""
NOT_OURS = ("<frozen importlib", "trio/_core/_wakeup_socketpair.py", "trio/_core/_entry_queue.py")
"""Files that call for nothing of ours: Python's imports, and the pair of sockets with which Trio wakes itself."""
_DECIDE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_long)


class Watch:
    """Decides whether a call fails, and counts the call sites."""

    def __init__(self, fault: tuple[str, int, int] | None, report: int) -> None:
        """``fault`` is a site, an error and the call there, from 1. ``report`` takes a line at the hit."""
        self._fault = fault
        self._report = report
        self._names: dict[str, str] = {}
        self.errors: dict[str, list[int]] = {}
        self.counts: Counter[str] = Counter()

    def decide(self, name: bytes, fd: int, second: int) -> int:
        """Return the error with which the call fails; 0 if it is made."""
        try:
            site = self._site(name.decode(), sys._getframe(1), fd, second)
        except ValueError:  # no frame: the interpreter ends
            return 0
        if not site:
            return 0
        self.counts[site] += 1
        if self._fault is None or (site, self.counts[site]) != (self._fault[0], self._fault[2]):
            return 0
        os.write(self._report, b"hit\n")
        return self._fault[1]

    def _site(self, call: str, frame: FrameType | None, fd: int, second: int) -> str:
        places: list[str] = []
        own = 0
        while frame is not None and own < PLACES:
            name = self._short(frame.f_code.co_filename)
            if name.startswith(NOT_OURS):
                return ""
            if name.startswith(OWN) or not places:
                places.append(f"{name}:{frame.f_lineno}")
                own += name.startswith(OWN)
            frame = frame.f_back
        if not own:
            return ""
        site = " < ".join([call, *places])
        if site not in self.errors:
            self.errors[site] = errors_of(call, kind_of(fd) if fd >= 0 else "", second)
        return site

    def _short(self, file: str) -> str:
        """Return the name of a file from its package on."""
        short = self._names.get(file)
        if short is None:
            parts = Path(file).parts
            at = max((at for at, part in enumerate(parts) if part in OWN), default=0)
            library = parts.index("site-packages") + 1 if "site-packages" in parts else max(len(parts) - 2, 0)
            short = self._names[file] = str(Path(*parts[at if at and "site-packages" not in parts else library :]))
        return short

    def result(self) -> dict[str, Any]:
        """Return each site with the number of its calls and its errors, and the modules that were imported."""
        sites = {site: [count, self.errors[site]] for site, count in self.counts.items() if self.errors[site]}
        return {
            "sites": sites,
            "modules": sorted(name for name in sys.modules if name.partition(".")[0] != "campaigns"),
        }


def run(shim: ctypes.CDLL, job: dict[str, Any]) -> None:
    """Be the command, in a new process."""
    folder = Path(job["folder"])
    os.setpgid(0, 0)
    os.chdir(folder)
    for fd, name in enumerate(("/dev/null", "out", "err")):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC if fd else os.O_RDONLY, 0o600)
        os.dup2(opened, fd)
        os.close(opened)
    report = os.open("report", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    watch = Watch(tuple(job["fault"]) if job["fault"] else None, report)
    decide = _DECIDE(watch.decide)

    def finish() -> None:
        shim.shim_ask(None)
        if job["fault"] is None:
            os.write(report, json.dumps(watch.result()).encode())

    atexit.register(finish)  # first, so that it is called last
    os.register_at_fork(after_in_child=lambda: shim.shim_ask(decide))
    sys.argv = ["vnet", *job["argv"]]
    from vnet.cli.start import start

    shim.shim_ask(decide)
    start()


def main(path: str) -> None:
    shim = ctypes.CDLL(path)
    del os.environ["LD_PRELOAD"]  # programs that the commands start have nothing that is asked
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        for name in job["modules"]:
            try:
                importlib.import_module(name)
            except ImportError:
                pass
        pid = os.fork()
        if pid == 0:
            run(shim, job)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main(sys.argv[1])
