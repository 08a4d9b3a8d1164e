"""Captures of running systems in the background."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cli import PATIENCE
from support.paths import VNET

__all__ = ["Capture", "capturing"]

READY = "Ctrl-C"


class Capture:
    """A ``vnet capture`` in the background, begun."""

    def __init__(self, log: Path, *args: str) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen([VNET, "capture", *args], stdout=subprocess.PIPE, stderr=file)
        end = time.monotonic() + PATIENCE
        while READY not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.05)

    def text(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def end(self, number: int | None = signal.SIGINT) -> tuple[int, str, str]:
        """Send a signal, if one is given, and wait: status, standard output and standard error."""
        if number is not None:
            self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.decode(), self.text()


@contextmanager
def capturing(log: Path, *args: str) -> Iterator[Capture]:
    capture = Capture(log, *args)
    try:
        yield capture
    finally:
        if capture.process.poll() is None:
            capture.process.kill()
            capture.process.communicate()
