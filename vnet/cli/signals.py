"""Ctrl-C, SIGTERM and SIGHUP as a cancellation, so that a command cleans up before it exits."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import click
import trio

from vnet.linux.background import open_background

__all__ = ["SIGNALS", "not_ignored", "run_until_ended", "run_until_signal"]

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command."""


def not_ignored(signals: Sequence[signal.Signals]) -> Sequence[signal.Signals]:
    """Return the signals to handle.

    SIGHUP stays ignored if it is ignored, so that nohup works. SIGINT does not: a shell without job control ignores it
    for each background command, and ``kill -INT`` must end those.
    """
    return [number for number in signals if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def run_until_signal(main: Callable[[], Awaitable[T]], signals: Sequence[signal.Signals] = SIGNALS) -> T:
    """Run ``main`` and return its result. If one of the ``signals`` arrives first, exit with 128 + its number."""
    caught: list[int] = []

    async def watch(arriving: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in arriving:
            caught.append(number)
            scope.cancel()

    async def watched() -> list[T]:
        results = []
        with trio.open_signal_receiver(*not_ignored(signals)) as arriving:
            # Signals are caught until the end of the clean-up: a second Ctrl-C changes nothing.
            async with open_background() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(watch, arriving, scope)
                    results.append(await main())
        return results

    results = trio.run(watched)
    if not results:
        raise click.exceptions.Exit(128 + caught[0])
    return results[0]


def run_until_ended(main: Callable[[trio.Event], Awaitable[int]]) -> int:
    """Run ``main``, which sets its event once it serves, and return its exit status.

    Once it serves, a signal is the normal end, with status 0.
    """
    serving = trio.Event()
    try:
        return run_until_signal(partial(main, serving))
    except click.exceptions.Exit:
        if not serving.is_set():
            raise
        return 0
