"""Clients of a control server over streams in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import memory_stream_pair

from vnet.qmp.server import ControlServer

__all__ = ["Client", "open_client"]


class Client:
    """Speaks to a server over a pair of streams in memory."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._lines = b""

    async def read(self) -> dict[str, object]:
        while b"\n" not in self._lines:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._lines += data
        line, self._lines = self._lines.split(b"\n", 1)
        actual = json.loads(line)
        assert isinstance(actual, dict)
        return actual

    async def say(self, what: object) -> dict[str, object]:
        """Send an object, or bytes as they are; the reply."""
        await self.stream.send_all(what if isinstance(what, bytes) else json.dumps(what).encode())
        return await self.read()

    async def shake_hands(self) -> None:
        assert "QMP" in await self.read()
        assert await self.say({"execute": "qmp_capabilities"}) == {"return": {}}


@asynccontextmanager
async def open_client(server: ControlServer) -> AsyncIterator[Client]:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.converse, theirs)
        yield Client(ours)
        await ours.aclose()
