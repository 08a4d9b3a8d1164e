"""Ctrl-C and SIGTERM as a cancellation, so that a command gives back what it holds before it ends."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import click
import trio

__all__ = ["run_until_signal"]

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_signal(main: Callable[[], Awaitable[T]]) -> T:
    """What ``main`` returns or raises; the command exits with 128 and the signal's number where one came first."""
    caught: list[int] = []

    async def watch(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            caught.append(number)
            scope.cancel()

    async def watched() -> list[T]:
        results = []
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                # Watched until everything is given back: a second Ctrl-C changes nothing.
                with trio.CancelScope() as scope:
                    nursery.start_soon(watch, signals, scope)
                    results.append(await main())
                nursery.cancel_scope.cancel()
        return results

    results = trio.run(watched)
    if not results:
        raise click.exceptions.Exit(128 + caught[0])
    return results[0]
