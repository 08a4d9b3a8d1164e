"""Ctrl-C, SIGTERM and SIGHUP as a cancellation, so that a command gives back what it holds before it ends."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import click
import trio

from vnet.linux.background import open_background

__all__ = ["run_until_ended", "run_until_signal"]

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_signal(main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main``; return what it returns. Exit with 128 and the signal's number if a signal comes first.

    SIGHUP stays ignored if it is, so that nohup works. (Not SIGINT: a shell without job control ignores it for each
    background command, and ``kill -INT`` is meant to end those.)
    """
    caught: list[int] = []
    handled = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]

    async def watch(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            caught.append(number)
            scope.cancel()

    async def watched() -> list[T]:
        results = []
        with trio.open_signal_receiver(*handled) as signals:
            # Watched until everything is given back: a second Ctrl-C changes nothing.
            async with open_background() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(watch, signals, scope)
                    results.append(await main())
        return results

    results = trio.run(watched)
    if not results:
        raise click.exceptions.Exit(128 + caught[0])
    return results[0]


def run_until_ended(main: Callable[[trio.Event], Awaitable[int]]) -> int:
    """Run ``main``, which sets its event once it serves; return its exit status.

    From then on a signal is how it is meant to end, and the status is 0.
    """
    serving = trio.Event()
    try:
        return run_until_signal(partial(main, serving))
    except click.exceptions.Exit:
        if not serving.is_set():
            raise
        return 0
