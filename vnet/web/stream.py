"""Server-sent events: rates and events of the system, one stream per browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import trio
from starlette.responses import JSONResponse

from vnet.web.feed import Feed

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["Messages", "Stream", "refuse", "send_events"]

Messages = Callable[[], Awaitable[Iterable[tuple[str, str]]]]
"""Waits for the next messages of a stream, each a kind and its data in one line."""


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that there are too many pages."""
    await JSONResponse({"error": "too many pages follow this system"}, status_code=503)(scope, receive, send)


async def send_events(receive: Receive, send: Send, messages: Messages) -> None:
    """Send messages until the browser disconnects. While it reads slowly, ``send`` waits, and delays nothing else."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, send, messages)
        while (await receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()


async def _send(send: Send, messages: Messages) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        text = "".join(f"event: {kind}\ndata: {data}\n\n" for kind, data in await messages())
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


class Stream:
    """An ASGI application: the messages of ``feed`` until the browser disconnects.

    If it reads slowly, its own mailbox fills.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._feed.full:
            await refuse(scope, receive, send)
            return
        with self._feed.subscribe() as mailbox:
            await send_events(receive, send, mailbox.take)
