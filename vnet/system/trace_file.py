"""The file for a link's trace."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vnet.errors import ConfigError
from vnet.linux.files import close_file, open_to_write
from vnet.views.link import TraceStatistics

__all__ = ["TraceFile", "open_trace"]

BUFFER = 8 << 10
"""Bytes that are written together."""


class TraceFile:
    """A trace file. The first write error is reported; after it, lines are dropped and the link goes on."""

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        """Open and truncate the file. Raises OSError, also for a FIFO without a reader."""
        self._path = path
        self._report = report
        # Non-blocking: waiting for the reader of a FIFO would stop the whole process.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NONBLOCK
        self._fd = open_to_write(Path(path), flags, 0o666)
        self._buffer = bytearray()
        self._lines = self._lost = 0
        self._error = ""

    def write(self, line: str) -> None:
        """Add a line; lost after an error."""
        if self._error:
            self._lost += 1
            return
        self._lines += 1
        self._buffer += line.encode() + b"\n"
        if len(self._buffer) >= BUFFER:
            self._flush()

    def statistics(self) -> TraceStatistics:
        return TraceStatistics(self._path, self._lines, self._lost, self._error)

    def close(self) -> None:
        """Write the buffered lines and close the file. Calling it twice is harmless."""
        if self._fd >= 0:
            self._flush()
            fd, self._fd = self._fd, -1
            close_file(fd, Path(self._path))

    def _flush(self) -> None:
        try:
            while self._buffer:
                del self._buffer[: os.write(self._fd, self._buffer)]
        except OSError as exc:
            waiting = self._buffer.count(b"\n")
            self._buffer.clear()
            self._lines, self._lost = self._lines - waiting, self._lost + waiting
            self._error = exc.strerror or str(exc)
            self._report(f"{self._path}: {self._error}; the link goes on without a trace")


def open_trace(link: str, path: str, report: Callable[[str], None]) -> TraceFile:
    """Open the file for the trace of ``link``, which the caller closes. Raises ConfigError if it can't be written."""
    try:
        return TraceFile(path, lambda trouble: report(f"links.{link}.trace: {trouble}"))
    except OSError as exc:
        raise ConfigError("topology", f"links.{link}.trace", path, exc.strerror or str(exc)) from None
