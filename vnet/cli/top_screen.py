"""The screen of ``vnet top``: tables that follow the system, and keys."""

from __future__ import annotations

import curses
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

import attrs
import click

from vnet.cli.top_table import Order, head_lines, queue_lines
from vnet.errors import PrivilegeError
from vnet.live.rates import Rates

__all__ = ["watch"]

KEYS = "q quit  s/← → sort  r reverse  ↑ ↓ scroll  space pause"
DEVICES_PART = 3
"""The lines of devices take at most this part of the screen: a third."""


def watch(sample: Callable[[], Rates], interval: float) -> None:
    """Show samples every ``interval`` seconds until the user quits.

    Raises the errors of ``sample``, and PrivilegeError for a terminal without cursor control.
    """
    terminal = os.environ.get("TERM", "")
    try:
        curses.setupterm()
    except curses.error:
        raise PrivilegeError(f"no cursor control: TERM={terminal!r}", "vnet top --once") from None
    ended = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _end) for number in ended]
    try:
        curses.wrapper(lambda window: _Screen(window, sample, interval).run())
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in zip(ended, before, strict=True):
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    """End the command in the way that restores the terminal."""
    raise click.exceptions.Exit(128 + number)


@attrs.define(eq=False)
class _Screen:
    window: curses.window
    sample: Callable[[], Rates]
    interval: float
    order: Order = attrs.field(factory=Order)
    top: int = 0
    """Queues above the first one that is shown."""
    paused: bool = False
    quits: bool = False

    def run(self) -> None:
        curses.curs_set(0)
        rates = self.sample()
        due = time.monotonic() + self.interval
        while not self.quits:
            self._draw(rates)
            left = due - time.monotonic()
            if left > 0:
                self.window.timeout(max(1, round(1000 * left)))
                self._handle(self.window.getch())
                continue
            if not self.paused:
                rates = self.sample()
            due = time.monotonic() + self.interval

    def _handle(self, key: int) -> None:
        match key:
            case 113:  # q
                self.quits = True
            case 115 | curses.KEY_RIGHT:  # s
                self.order = self.order.moved(1)
            case curses.KEY_LEFT:
                self.order = self.order.moved(-1)
            case 114:  # r
                self.order = attrs.evolve(self.order, reverse=not self.order.reverse)
            case 32:  # space
                self.paused = not self.paused
            case curses.KEY_DOWN:
                self.top += 1
            case curses.KEY_UP:
                self.top = max(0, self.top - 1)

    def _draw(self, rates: Rates) -> None:
        height, _ = self.window.getmaxyx()
        head = list(head_lines(rates, max(2, height // DEVICES_PART)))
        titles, _, *rows = queue_lines(rates, self.order)
        room = max(0, height - len(head) - 3)
        self.top = min(self.top, max(0, len(rows) - room))
        self.window.erase()
        for y, line in enumerate(head):
            self._line(y, line, curses.A_NORMAL if y else curses.A_BOLD)
        self._line(len(head) + 1, titles, curses.A_REVERSE)
        for y, line in enumerate(rows[self.top : self.top + room], len(head) + 2):
            self._line(y, line, curses.A_NORMAL)
        status = f"{KEYS}  |  {self.order}" + ("  |  paused" if self.paused else "")
        self._line(height - 1, status, curses.A_DIM)
        self.window.refresh()

    def _line(self, y: int, line: str, style: int) -> None:
        """Write a line, cut to the width: a terminal may be of any size."""
        height, width = self.window.getmaxyx()
        if y < height:
            self.window.addnstr(y, 0, line, width - 1, style)
