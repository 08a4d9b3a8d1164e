"""Tasks that run for as long as a context lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_background"]


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
