"""The handler of SIGINT (Ctrl-C): exit at once during imports, KeyboardInterrupt afterwards.

A KeyboardInterrupt in the middle of an import would be a traceback.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # not from typing, whose import takes as long as all others here: Ctrl-C is a traceback meanwhile
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn, TypeAlias

    Handler: TypeAlias = Callable[[int, FrameType | None], Any] | signal.Handlers

__all__ = ["exit_on_interrupt", "ignore_interrupt", "raise_on_interrupt"]


def exit_on_interrupt() -> None:
    """Make Ctrl-C end the process at once."""
    _replace_handler(signal.default_int_handler, _exit)


def raise_on_interrupt() -> None:
    """Make Ctrl-C a KeyboardInterrupt, so that a command cleans up."""
    _replace_handler(_exit, signal.default_int_handler)


def ignore_interrupt() -> None:
    """Ignore Ctrl-C."""
    for handler in (_exit, signal.default_int_handler):
        _replace_handler(handler, signal.SIG_IGN)


def _replace_handler(old: Handler, new: Handler) -> None:
    """Set the handler of SIGINT if it is ``old`` now: an ignored signal stays ignored."""
    if signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)


def _exit(number: int, _: FrameType | None) -> NoReturn:
    """Exit at once: no command has begun, so there is nothing to clean up."""
    os._exit(128 + number)
