"""Pictures of the rings in a browser's sight: once, or as a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio
from starlette.datastructures import QueryParams
from starlette.requests import Request

from vnet.errors import ControlError
from vnet.qmp.async_client import Control
from vnet.ring_picture.draw import ring_picture
from vnet.ring_picture.wheel import ring_wheel
from vnet.views.ring import RingReport, RingSlotsOfQueues, slots_of
from vnet.web.feed import CLIENTS_MAX
from vnet.web.stream import refuse, send_events

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["Pictures", "RingStream", "ring_pictures"]

RINGS_MAX = 16
"""Rings of one request."""
INTERVAL = 0.2
"""Seconds between two looks of a stream."""
Pictures = dict[str, dict[str, str]]
"""Pictures in SVG by name, "wheel" and "tables", of each queue."""


async def ring_pictures(control: Control, query: QueryParams) -> Pictures:
    """Return for each ``queue`` of a ``device`` its ring as a wheel, for that of ``tables`` its tables.

    Raises Refusal, ControlError.
    """
    device, tables = query.get("device", ""), query.get("tables", "")
    queues = list(dict.fromkeys(query.getlist("queue")[:RINGS_MAX]))
    small = [queue for queue in queues if queue != tables]
    answer = await control.view(RingSlotsOfQueues, "query-ring-slots", {"name": device, "queues": small})
    pictures = {queue: {"wheel": ring_wheel(f"{device} {queue}", slots)} for queue, slots in answer.queues.items()}
    if tables in queues:
        report = await control.view(RingReport, "query-ring", {"name": device, "queue": tables})
        title = f"{device} {tables}"
        pictures[tables] = {"wheel": ring_wheel(title, slots_of(report)), "tables": ring_picture(title, report)}
    return pictures


class RingStream:
    """An ASGI application: the pictures that a query asks for, whenever they have changed.

    A request for each look would cost more than the look.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._streams >= CLIENTS_MAX:
            await refuse(scope, receive, send)
            return
        query, shown = Request(scope).query_params, ""

        async def next_pictures() -> list[tuple[str, str]]:
            nonlocal shown
            before = shown
            while True:
                if before:
                    await trio.sleep(INTERVAL)
                try:
                    kind, message = "rings", json.dumps(await ring_pictures(self._control, query))
                except ControlError as exc:
                    kind, message = "absent", json.dumps({"why": str(exc)})
                before = message
                if message != shown:
                    shown = message
                    return [(kind, message)]

        self._streams += 1
        try:
            await send_events(receive, send, next_pictures)
        finally:
            self._streams -= 1
