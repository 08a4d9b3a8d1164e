"""A progress bar on standard error, if that is a terminal. It is drawn between runs only, and disturbs none.

It is the last line of the terminal: other lines erase it first, and it is no part of any log.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import click

__all__ = ["Bar", "erase", "is_writable", "progress_bar"]

ERASE = "\r\x1b[K"
"""Erases the line of the cursor."""
WIDTH = 24
"""Characters of the bar."""


class Bar:
    """A bar of ``total`` steps. Methods of a bar that is not ``visible`` draw nothing."""

    drawn: ClassVar[Bar | None] = None
    """The bar that is on the terminal now."""

    def __init__(self, label: str, total: int, *, visible: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.visible = visible
        self.total = total
        self._label = label
        self._done = 0
        self._text = ""
        self._clock = clock
        self._start = clock()

    def show(self, text: str) -> None:
        """Draw the bar with a text beside it."""
        self._text = text
        self._draw()

    def echo(self, line: str, steps: int = 1) -> None:
        """Print a line on standard output, and draw the bar that many steps further."""
        erase()
        click.echo(line)
        self._done += steps
        self._draw()

    def advance(self, text: str) -> None:
        """Draw the bar one step further, with a text beside it."""
        self._done += 1
        self.show(text)

    def line(self) -> str:
        """Return the bar as text: label, bar, steps, the estimated time that is left, and its text."""
        total = max(self.total, self._done, 1)
        filled = WIDTH * self._done // total
        left = ""
        if self._done and self._done < total:
            seconds = round((self._clock() - self._start) * (total - self._done) / self._done)
            left = f", {seconds // 60}:{seconds % 60:02} left"
        text = f"  {self._text}" if self._text else ""
        return f"{self._label} [{'#' * filled}{'.' * (WIDTH - filled)}] {self._done}/{total}{left}{text}"

    def _draw(self) -> None:
        if self.visible and is_writable():
            Bar.drawn = self
            _write(ERASE + self.line()[: shutil.get_terminal_size().columns - 1])


def erase() -> None:
    """Erase the bar that is on the terminal, before another line is written."""
    if Bar.drawn is not None:
        Bar.drawn = None
        _write(ERASE)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Bar]:
    """Return a bar, which is erased at the end. It is visible if standard error is a terminal with cursor control."""
    visible = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    try:
        yield Bar(label, total, visible=visible)
    finally:
        erase()


def is_writable() -> bool:
    """Return whether standard error takes a line at once."""
    try:
        poll = select.poll()
        poll.register(sys.stderr.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # a file in memory, no file at all, or no memory for the call
        return True


def _write(text: str) -> None:
    try:
        click.echo(text, nl=False, err=True)
    except (OSError, ValueError):  # the terminal is gone
        Bar.drawn = None
