"""Parts that commands share: errors in one line each, and the option with the name of a system."""

from __future__ import annotations

import errno
import functools
import os
import resource
import shlex
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from drivers.errors import DriverError
from rings.errors import MemoryFault
from vnet.cli.live_names import complete_systems
from vnet.errors import SUDO, ConfigError, ControlError, PrivilegeError, TrafficError, leaves
from vnet.names import NAME, NAME_RULE

__all__ = [
    "EXPECTED",
    "EXTENSIONS",
    "check_name",
    "errors_in_one_line",
    "lines",
    "loaded_extensions",
    "name_option",
    "one_line",
]

P = ParamSpec("P")
R = TypeVar("R")

EXPECTED = (ConfigError, ControlError, PrivilegeError, DriverError, TrafficError, MemoryFault, OSError)
"""Errors that users cause or can fix: they are reported in one line, without a traceback."""
EXTENSIONS = "vnet.extensions"
"""Key in the data of a context: the files that `vnet --load` has loaded."""
PROBLEMS = 100
"""Most problems of one file that are shown."""


class _Failure(click.ClickException):
    """Ends the command with exit status 1, after a line per error."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))

    def show(self, file: Any = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"vnet: {line}", err=True)


def errors_in_one_line(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap the callback of a command: expected errors become lines on standard error and exit status 1.

    Expected errors may be in groups, together with cancellations. Any other error is a bug and keeps its traceback: a
    group with a bug is raised without its expected errors, after their lines.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            raise  # the reader of our output has closed it; `vnet.cli.start` exits quietly
        except EXPECTED as exc:
            raise _Failure(lines(exc)) from None
        except BaseExceptionGroup as group:
            closed, rest = group.split(BrokenPipeError)
            if closed is not None and _uncancelled(rest) is None:
                raise next(leaves(closed)) from None
            texts, unexpected = _sort(group)
            if unexpected is None and texts:
                raise _Failure(texts) from None
            _Failure(texts).show()
            raise (unexpected or group) from None

    return run


def lines(error: BaseException) -> list[str]:
    """Return a line per problem of a `ConfigError`, at most `PROBLEMS` and how many more there are; else one line."""
    if not isinstance(error, ConfigError):
        return [one_line(error)]
    shown = [one_line(each) for each in error.all[:PROBLEMS]]
    more = len(error.all) - len(shown)
    return [*shown, f"{error.file}: {more} more"] if more else shown


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, with a command that helps if there is one."""
    if isinstance(error, PrivilegeError) and error.command == SUDO:
        text = f"{error.missing}; try: {_granting_command()}"
    elif isinstance(error, OSError) and error.errno == errno.EMFILE:
        # The limit is the cause, not the file that was to be opened: one line for all tasks that reached it.
        text = f"{error.strerror}; try: ulimit -n {4 * resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _granting_command() -> str:
    """Return the command that does the same with the rights it needs: as root, or in a user namespace if it can."""
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("in_namespace") is False and os.geteuid():
        from vnet.linux.privileges.rootless import gives_interfaces  # imports subprocess: completion is to be fast

        if gives_interfaces():
            return f"{context.command_path} --rootless {shlex.join(sys.argv[2:])}".rstrip()
    return f"{SUDO} {shlex.join(sys.argv[1:])}"


def _sort(group: BaseExceptionGroup) -> tuple[list[str], BaseExceptionGroup | None]:
    """Return the lines of the expected errors, without repetition, and a group of the others without cancellations."""
    expected, others = group.split(EXPECTED)
    unexpected = _uncancelled(others)
    texts = [] if expected is None else [line for error in leaves(expected) for line in lines(error)]
    return list(dict.fromkeys(texts)), unexpected


def _uncancelled(group: BaseExceptionGroup | None) -> BaseExceptionGroup | None:
    """Return the group without cancellations; None if nothing is left."""
    import trio  # here, because most commands do not need it

    return None if group is None else group.split(trio.Cancelled)[1]


def loaded_extensions(context: click.Context) -> tuple[str, ...]:
    """Return the absolute paths of the extensions that are loaded, for other processes."""
    files: tuple[str, ...] = context.meta.get(EXTENSIONS, ())
    return files


def check_name(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """Return the name of a system that an option has; None if it is not given. Raises BadParameter."""
    if name is not None and not NAME.fullmatch(name):
        raise click.BadParameter(NAME_RULE)
    return name


name_option = click.option(
    "--name",
    default="vnet",
    show_default=True,
    callback=check_name,
    shell_complete=complete_systems,
    help="Name of the system, which prefixes its namespaces and names its control socket.",
)
