"""Rates and events of the system as server-sent events, one stream per browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from starlette.responses import JSONResponse

from vnet.web.feed import Feed
from vnet.web.mailbox import Mailbox

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["Stream"]


class Stream:
    """An ASGI application: the messages of ``feed`` until the browser disconnects.

    A browser that reads slowly makes ``send`` wait and its own mailbox fill, and delays nothing else.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._feed.full:
            refusal = JSONResponse({"error": "too many pages follow this system"}, status_code=503)
            await refusal(scope, receive, send)
            return
        with self._feed.subscribe() as mailbox:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, mailbox, send)
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

    @staticmethod
    async def _send(mailbox: Mailbox, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            text = "".join(f"event: {kind}\ndata: {data}\n\n" for kind, data in await mailbox.take())
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
