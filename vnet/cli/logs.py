"""The log on standard error, and the options that choose how much of it is shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import attrs
import click

from vnet.cli.progress import erase, is_writable
from vnet.system.limited import shortened

__all__ = ["log_options"]

P = ParamSpec("P")
R = TypeVar("R")
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""Levels by the number of ``-v``."""


class JsonFormatter(logging.Formatter):
    """Makes a line of JSON of each record, with the place and the fields of its event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Its time is in UTC."""
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        event = getattr(record, "event", None)
        if event is not None:
            fields: dict[str, Any] = {
                name: shortened(value) if isinstance(value, str) else value
                for name, value in attrs.asdict(event).items()
            }
            source = fields.pop("source")
            line |= {**source, "event": type(event).__name__, "clock": fields.pop("time"), **fields}
        return json.dumps({**line, "message": record.getMessage()}, default=str)


class StandardErrorHandler(logging.Handler):
    """Writes lines to standard error. Loses and counts those that its reader does not take: it never waits."""

    lost = 0
    """Lines lost since the last one that was written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record if standard error takes it at once, after the count of those lost before."""
        if not is_writable():
            self.lost += 1
            return
        lost, self.lost = self.lost, 0
        erase()
        try:
            if lost:
                click.echo(self.format(_count(lost)), err=True)
                lost = 0
                if not is_writable():
                    self.lost = 1
                    return
            click.echo(self.format(record), err=True)
        except (OSError, ValueError):  # its reader has closed it
            self.lost += lost + 1


def _count(lost: int) -> logging.LogRecord:
    text = f"standard error was not read: {lost} lines are lost"
    return logging.LogRecord("vnet", logging.WARNING, __file__, 0, text, None, None)


def log_options(command: Callable[P, R]) -> Callable[..., R]:
    """Give a command the options of the log, and set the log up before the command runs."""

    @click.option("-v", "--verbose", count=True, help="Log binds, features, links, commands; -vv: all but traffic.")
    @click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
    @click.option("--log-json", is_flag=True, help="Log lines of JSON.")
    @wraps(command)
    def run(verbose: int, quiet: bool, log_json: bool, *args: P.args, **kwargs: P.kwargs) -> R:
        if quiet and verbose:
            raise click.UsageError("--quiet and --verbose exclude each other")
        _set_up(logging.ERROR if quiet else LEVELS[min(verbose, len(LEVELS) - 1)], as_json=log_json)
        return command(*args, **kwargs)

    return run


def _set_up(level: int, *, as_json: bool) -> None:
    handler = StandardErrorHandler()
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter("vnet: %(message)s"))
    logger = logging.getLogger("vnet")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)
