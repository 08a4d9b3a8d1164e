"""The options of a simulated trial, which `vnet sim` and `vnet campaign` share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from vnet.sim.configuration import RANDOM, Configuration, load_names

__all__ = ["configured", "parse_time", "trial_options"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|min|h)")
LONGEST = 24 * 3600.0
"""Most seconds of a time."""


def parse_time(_context: click.Context, _option: click.Parameter, text: str) -> float:
    """Return a time such as 90s or 1h in seconds. Raises BadParameter for 0, more than a day, and another form."""
    match = TIME.fullmatch(text)
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST:
        raise click.BadParameter(f"{text!r}: must be above 0 and at most 24h, such as 500ms, 90s, 10m or 1h")
    return seconds


def _loads(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Return names that are separated by commas. Raises BadParameter for one that is no load."""
    names = None if text is None else tuple(text.split(","))
    for name in names or ():
        if name not in load_names():
            raise click.BadParameter(f"{name!r} is no load: known are {', '.join(load_names())}")
    return names


_SYSTEM: Sequence[Decorator] = (
    click.option(RANDOM, "use_random", is_flag=True, help="Simulate a random system, which follows from the seed."),
    click.option("--wire", is_flag=True, help="With --random: each link is a wire, which carries packets of bytes."),
)
_TRAFFIC: Sequence[Decorator] = (
    click.option(
        "--time",
        "seconds",
        callback=parse_time,
        metavar="TIME",
        default="10s",
        show_default=True,
        help="Simulated time of traffic, such as 1h.",
    ),
    click.option(
        "--load", "loads", callback=_loads, metavar="LOADS", help="Names of loads, comma-separated.  [default: all]"
    ),
    click.option("--check", is_flag=True, help="Check memory, rings, states and counters as well, not only the data."),
    click.option("--state-only", is_flag=True, help="Log no frames, chains and registers: rings run in C, as usual."),
)


def trial_options(*between: Decorator) -> Decorator:
    """Return a decorator that adds the options of a trial to a command, and those ``between`` system and traffic."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((*_SYSTEM, *between, *_TRAFFIC)):
            function = option(function)
        return function

    return add


def configured(
    topology: Path | None, use_random: bool, wire: bool, seconds: float, loads: tuple[str, ...] | None, check: bool,
    state_only: bool,
) -> Configuration:  # fmt: skip
    """Return the configuration of the options, without the records of its topology. Raises UsageError."""
    if (topology is None) is not use_random:
        raise click.UsageError("give either a TOPOLOGY file or --random")
    if wire and not use_random:
        raise click.UsageError("--wire needs --random: a TOPOLOGY file has its own links")
    source = RANDOM if topology is None else str(topology)
    return Configuration(None, source, wire, seconds, loads, check, not state_only)
