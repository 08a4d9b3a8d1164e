"""Where a capture goes: a file or pipe of pcapng, a file with a timeline, lines on standard output."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vnet.capture.captured import Captured
from vnet.capture.lines import line
from vnet.capture.timeline import Timeline
from vnet.cli.reception import Output
from vnet.linux.files import close_file, open_to_write

__all__ = ["STANDARD", "lines", "pcapng", "timeline"]

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
STANDARD = Path("-")
"""Stands for standard output."""


@contextmanager
def pcapng(path: Path) -> Iterator[Output]:
    """Open the output of the stream itself: a file, a FIFO, or standard output. Raises OSError."""
    name = "standard output" if path == STANDARD else str(path)
    with _named(name):
        fd = os.dup(1) if path == STANDARD else open_to_write(path, FLAGS, 0o666)

    def write(data: bytes | memoryview) -> None:
        with _named(name):
            _write_all(fd, data)

    try:
        yield Output(fd, write=write)
    finally:
        close_file(fd, Path(name))


@contextmanager
def timeline(path: Path) -> Iterator[Output]:
    """Open the output of a timeline. The file is complete at the end, also after an error. Raises OSError."""
    with _named(str(path)), os.fdopen(open_to_write(path, FLAGS, 0o666), "w", encoding="utf-8") as file:
        drawn = Timeline(file.write)

        def show(events: Sequence[Captured]) -> None:
            for event in events:
                drawn.add(event)

        try:
            yield Output(file.fileno(), show=show)
        finally:
            drawn.close()


def lines() -> Output:
    """Return the output of lines."""

    def show(events: Sequence[Captured]) -> None:
        if events:
            sys.stdout.write("".join(f"{line(event)}\n" for event in events))
            sys.stdout.flush()

    return Output(sys.stdout.fileno(), show=show)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the file in an OSError that does not."""
    try:
        yield
    except OSError as exc:
        if exc.filename is None and not isinstance(exc, BrokenPipeError):
            exc.filename = name
        raise


def _write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, also to a pipe that another process has made non-blocking. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
