"""Tasks that run for as long as a context lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_background"]


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """A nursery that is cancelled at the end rather than waited for; an error of the body comes out as it is."""
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as exc:  # noqa: BLE001  raised again below, outside of any group
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
