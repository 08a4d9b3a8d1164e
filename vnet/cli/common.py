"""What commands share: errors as one line, and the name of a running system."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from drivers.errors import DriverError
from vnet.errors import ConfigError, ControlError, PrivilegeError
from vnet.spec import NAME
from vnet.traffic import TrafficError

__all__ = ["EXPECTED", "errors_in_one_line", "name_option", "one_line"]

P = ParamSpec("P")
R = TypeVar("R")

EXPECTED = (ConfigError, ControlError, PrivilegeError, DriverError, TrafficError, OSError)
"""What may go wrong without anything being wrong with this program."""


class _Failure(click.ClickException):
    """Ends the command with exit status 1 and its one line."""

    def show(self, file: Any = None) -> None:
        click.echo(f"vnet: {self.message}", err=True)


def errors_in_one_line(command: Callable[P, R]) -> Callable[P, R]:
    """For the callback of a command: an expected error is one line on standard error and exit status 1.

    Anything else is a bug, whose traceback is wanted.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            raise  # whoever read our output has had enough; click ends quietly
        except (*EXPECTED, BaseExceptionGroup) as exc:
            error = _only(exc)
            if not isinstance(error, EXPECTED):
                raise
            raise _Failure(one_line(error)) from None

    return run


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split())


def _only(error: BaseException) -> BaseException:
    """The error itself rather than the groups it travelled in, where there is but one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _check_name(_context: click.Context, _option: click.Parameter, name: str) -> str:
    if not NAME.fullmatch(name):
        raise click.BadParameter("a lower-case letter, then at most 31 letters, digits, - and _")
    return name


name_option = click.option(
    "--name",
    default="vnet",
    show_default=True,
    callback=_check_name,
    help="Which system; its namespaces and its control socket are named after it.",
)
