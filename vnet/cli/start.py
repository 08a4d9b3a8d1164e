"""Start of the process: Ctrl-C, a closed output and errors end it with an exit status, never with a traceback."""

from __future__ import annotations

import os
import signal
import sys

from vnet.cli.interrupt import exit_on_interrupt, ignore_interrupt

TYPE_CHECKING = False  # not from typing, which is slow to import
if TYPE_CHECKING:
    from typing import NoReturn, TextIO

__all__ = ["start"]


def start(module: str = "vnet.cli.group", command: str = "main") -> NoReturn:
    """Run a command, by default the command line ``vnet``, and exit. It is imported only here.

    The status is the command's, 128 + SIGINT after Ctrl-C, and 128 + SIGPIPE if the reader of the output has closed it,
    as for a program that those signals end.
    """
    try:
        _open_standard_streams()
    except OSError as exc:
        sys.exit(f"vnet: {exc.filename or os.devnull}: {exc.strerror}")
    exit_on_interrupt()
    try:
        status = _run(module, command)
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    ignore_interrupt()
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        _flush_or_discard(stream)
    sys.exit(status)


def _open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream, else the next opened file would take its place."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _run(module: str, command: str) -> int:
    import importlib
    import logging

    import click

    from vnet.cli.common import one_line

    logging.basicConfig(format="vnet: %(message)s")
    logging.logProcesses = False  # no line has the process's number, and a sandbox has no call for it
    stdout = sys.stdout
    try:
        return getattr(importlib.import_module(module), command)(standalone_mode=False) or 0
    except click.Abort:
        return 128 + signal.SIGINT
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except SystemExit:
        if sys.stdout is stdout:
            raise
        return 128 + signal.SIGPIPE  # click has replaced the closed stream, and exits with 1
    except OSError as exc:
        click.echo(f"vnet: {one_line(exc)}", err=True)
        return 1


def _flush_or_discard(stream: TextIO) -> None:
    """Write the buffered text; discard it if that fails, else the interpreter would report an error at exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
