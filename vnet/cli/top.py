"""``vnet top``: rates of a running system, on the screen or line by line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.top_table import Order, head_lines, queue_lines
from vnet.live.rates import Rates, rates_between
from vnet.qmp.client import connect
from vnet.views.parse import from_answer
from vnet.views.plain import to_plain
from vnet.views.system import SystemView

__all__ = ["Sampler", "command"]


class Sampler:
    """Takes the rates since its last call from the view that ``look`` returns."""

    def __init__(self, look: Callable[[], SystemView], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._view, self._time = look(), clock()

    def sample(self) -> Rates:
        """Return the rates. Raises ControlError, OSError."""
        view, now = self._look(), self._clock()
        rates = rates_between(self._view, view, max(now - self._time, 1e-6))
        self._view, self._time = view, now
        return rates


@click.command("top")
@name_option
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one table, with the rates over one interval.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each interval.")
@errors_in_one_line
def command(name: str, interval: float, once: bool, as_json: bool) -> None:
    """Show rates of devices and queues while a system runs.

    A row is a queue, seen from one side: packets, bits, kicks and calls per second, notifications sent per packet,
    packets per batch, ring fill, drops, rescues. Keys: q quits, s and arrows choose the column to sort by, r
    reverses, space pauses. Without a terminal, a table is printed for each interval.
    """
    with connect(name) as connection:
        sampler = Sampler(lambda: from_answer(name, SystemView, connection.ask("query-vnet")))
        if not (once or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
            from vnet.cli.top_screen import watch

            watch(sampler.sample, interval)
        else:
            _print(sampler, interval, once, as_json)


def _print(sampler: Sampler, interval: float, once: bool, as_json: bool) -> None:
    """Print a table or a line of JSON after each interval, or only one."""
    while True:
        time.sleep(interval)
        rates = sampler.sample()
        lines = [json.dumps(to_plain(rates))] if as_json else [*head_lines(rates), "", *queue_lines(rates, Order())]
        click.echo("\n".join(lines) + ("" if as_json or once else "\n"))
        if once:
            return
