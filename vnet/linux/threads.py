"""Threads for calls that block. The kernel may refuse to start one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import ParamSpec, TypeVar

import trio

__all__ = ["NO_THREAD", "NoThread", "run_in_thread", "run_in_thread_or_here", "start_thread"]

P = ParamSpec("P")
T = TypeVar("T")
NO_THREAD = "no further thread can be started; try: ulimit -u unlimited, or a larger pids.max of the control group"
_OF_PYTHON = "can't start new thread"
"""Message of the RuntimeError of `threading`, which has no class of its own."""


class NoThread(OSError):
    """The limit of this user's or control group's processes is reached, or there is no memory for a stack."""

    def __init__(self) -> None:
        super().__init__(errno.ENOMEM, NO_THREAD)


async def run_in_thread(call: Callable[..., T], *args: object, limiter: trio.CapacityLimiter | None = None) -> T:
    """Run ``call`` in a thread, to its end also if cancelled; return its result or raise its error.

    Raises NoThread.
    """
    with _starting():
        return await trio.to_thread.run_sync(call, *args, limiter=limiter)


async def run_in_thread_or_here(call: Callable[..., T], *args: object) -> T:
    """`run_in_thread`, but in this thread if no other can be started: for clean-up that must happen."""
    try:
        return await run_in_thread(call, *args)
    except NoThread:
        return call(*args)


def start_thread(thread: Thread) -> None:
    """Start a thread. Raises NoThread."""
    with _starting():
        thread.start()


@contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        if str(exc) != _OF_PYTHON:
            raise
        raise NoThread from None
