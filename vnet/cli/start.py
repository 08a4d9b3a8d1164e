"""Where the process starts: Ctrl-C, a reader that leaves, and errors end it with a status, never with a traceback."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # not from typing, whose import takes as long as all others here: Ctrl-C is a traceback meanwhile
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn, TextIO, TypeAlias

    Handler: TypeAlias = Callable[[int, FrameType | None], Any] | signal.Handlers

__all__ = ["imports_are_done", "start"]


def start() -> NoReturn:
    """Run the command line and exit.

    The status is the command's, 128 + SIGINT for Ctrl-C, and 128 + SIGPIPE if the reader of the output has left, as
    for a program that those signals end.
    """
    _open_standard_streams()
    # A KeyboardInterrupt in the middle of an import would be a traceback.
    _replace_handler(signal.default_int_handler, _leave)
    try:
        status = _run()
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    for handler in (_leave, signal.default_int_handler):
        _replace_handler(handler, signal.SIG_IGN)  # nothing is left to interrupt
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        _flush_or_discard(stream)
    sys.exit(status)


def _open_standard_streams() -> None:
    """Put /dev/null in place of a standard stream that is closed, else the next file to be opened would become it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def imports_are_done() -> None:
    """Make Ctrl-C a KeyboardInterrupt from now on, so that a command gives back what it holds."""
    _replace_handler(_leave, signal.default_int_handler)


def _replace_handler(old: Handler, new: Handler) -> None:
    """Handle SIGINT in another way, if ``old`` handles it: an ignored signal stays ignored."""
    if signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)


def _run() -> int:
    import logging

    import click

    from vnet.cli.common import one_line
    from vnet.cli.group import main

    logging.basicConfig(format="vnet: %(message)s")
    stdout = sys.stdout
    try:
        return main(standalone_mode=False) or 0
    except click.Abort:
        return 128 + signal.SIGINT
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except SystemExit:
        if sys.stdout is stdout:
            raise
        return 128 + signal.SIGPIPE  # click has replaced the stream that has no reader, and exits with 1
    except OSError as exc:
        click.echo(f"vnet: {one_line(exc)}", err=True)
        return 1


def _leave(number: int, _: FrameType | None) -> NoReturn:
    """Exit at once: no command has begun, so nothing has to be given back."""
    os._exit(128 + number)


def _flush_or_discard(stream: TextIO) -> None:
    """Write what is buffered; discard it if it can't be written, else the interpreter would complain at its end."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
