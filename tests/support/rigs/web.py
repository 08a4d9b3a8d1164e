"""The web application of a system in this process, without a network: control connections are streams in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx
import trio
from trio.testing import memory_stream_pair

from vnet.qmp.async_client import Control
from vnet.qmp.server import ControlServer
from vnet.system.world import World, open_world
from vnet.topology.samples import built_in
from vnet.web.app import make_app
from vnet.web.feed import Feed
from vnet.web.guard import host_names

__all__ = ["TOKEN", "WebRig", "open_web"]

PORT = 8080
TOKEN = "token-of-the-test-page"


@attrs.define(eq=False)
class WebRig:
    """A system, and what a browser at 127.0.0.1 has of it."""

    world: World
    feed: Feed
    control: Control
    browser: httpx.AsyncClient
    running: bool = True
    """Whether connections to the system succeed."""
    connections: int = 0
    """Connections to the system so far."""
    open: list[trio.abc.Stream] = attrs.field(factory=list)
    """The system's ends of them."""


@asynccontextmanager
async def open_web(type_name: str = "blk") -> AsyncIterator[WebRig]:
    async def dial() -> trio.abc.Stream:
        if not rig.running:
            raise FileNotFoundError
        ours, theirs = memory_stream_pair()
        nursery.start_soon(server.converse, theirs)
        rig.connections += 1
        rig.open.append(theirs)
        return ours

    control = Control("t", dial)
    feed = Feed(control)
    transport = httpx.ASGITransport(make_app(control, feed, host_names(PORT), TOKEN))
    async with open_world(built_in(type_name, "pci"), "t") as world, trio.open_nursery() as nursery:
        await world.wait_up()
        server = ControlServer(world)
        nursery.start_soon(feed.run)
        base = f"http://127.0.0.1:{PORT}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers, timeout=None) as browser:
            rig = WebRig(world, feed, control, browser)
            yield rig
        nursery.cancel_scope.cancel()
