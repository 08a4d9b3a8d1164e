"""The page over HTTP at one address of this machine."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from vnet.qmp.async_client import Control
from vnet.web.app import make_app
from vnet.web.feed import Feed
from vnet.web.guard import host_names

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

__all__ = ["serve_page"]

SEND_BUFFER = 64 << 10
"""Bytes that the kernel keeps for a browser that does not read."""


async def serve_page(control: Control, host: str, port: int, token: str, started: Callable[[int], None]) -> None:
    """Serve the page of a system until cancelled, to browsers with the ``token``. Calls ``started`` with the port.

    ``host`` is an IPv4 or IPv6 address of this machine; port 0 is any free one. Raises OSError.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listening.bind((host, port))
        listening.listen()  # a second program at this port fails here, before anything is served
        port = listening.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listening.dup().detach()}"]
        config.errorlog = logging.getLogger("vnet.web")
        config.include_server_header = False
        feed = Feed(control)
        app = cast("ASGIFramework", make_app(control, feed, host_names(port), token))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            await nursery.start(partial(serve, app, config))
            started(port)
