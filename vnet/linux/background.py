"""Tasks that run for as long as a context lasts, and tasks that run at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

__all__ = ["gather", "open_all", "open_background"]

T = TypeVar("T")


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that is cancelled at the end instead of waited for.

    An error of the body alone comes out as it is. If tasks fail too, all errors come out in a group.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:  # noqa: BLE001  raised again below, outside of any group if it is the only one
                error = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The failure of a task cancels the body, which is no error of the body's.
        if error is None or isinstance(error, trio.Cancelled):
            raise
        raise BaseExceptionGroup(group.message, [error, *group.exceptions]) from None
    if error is not None:
        raise error


async def gather(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run all ``calls`` at the same time, and return their results in order.

    An error cancels the other calls. If several fail, the error of the first in order is raised.
    """
    results: dict[int, T] = {}
    errors: dict[int, Exception] = {}
    async with trio.open_nursery() as nursery:

        async def run(index: int, call: Callable[[], Awaitable[T]]) -> None:
            try:
                results[index] = await call()
            except Exception as error:  # noqa: BLE001  raised again below
                errors[index] = error
                nursery.cancel_scope.cancel()

        for index, call in enumerate(calls):
            nursery.start_soon(run, index, call)
    if errors:
        raise errors[min(errors)]
    return [results[index] for index in range(len(calls))]


@asynccontextmanager
async def open_all(contexts: Sequence[AbstractAsyncContextManager[T]]) -> AsyncIterator[list[T]]:
    """Enter all ``contexts`` at the same time, each in a task of its own; yield their values in order.

    They are left at the same time, at the end of this context: also if it is cancelled, no earlier than its body ends.
    If one can't be entered, its error is raised, and those entered so far are left.
    """
    leave = trio.Event()

    async def hold(context: AbstractAsyncContextManager[T], task_status: trio.TaskStatus[T]) -> None:
        async with context as value:
            task_status.started(value)
            await leave.wait()

    async def shelter(task_status: trio.TaskStatus[trio.Nursery]) -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as holders:
                task_status.started(holders)
                await leave.wait()

    async with open_background() as nursery:
        holders: trio.Nursery = await nursery.start(shelter)
        try:
            yield await gather([partial(holders.start, hold, context) for context in contexts])
        finally:
            leave.set()
