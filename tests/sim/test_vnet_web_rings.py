"""The stream of a page's rings: pictures when they change, a reason if there are none, an end with the browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.rigs.web import WebRig, open_web
from vnet.web import rings as rings_module
from vnet.web.rings import RingStream

QUERY = "device=blk0&queue=requestq1&tables=requestq1"


class Reader:
    """A browser that follows a stream."""

    def __init__(self) -> None:
        self.sender, self._receiver = trio.open_memory_channel[Mapping[str, Any]](100)
        self.gone = trio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def status(self) -> int:
        return int((await self._receiver.receive())["status"])

    async def message(self) -> tuple[str, Any]:
        kind, data = (await self._receiver.receive())["body"].decode().split("\n", 1)
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def nothing(self) -> bool:
        return not self._receiver.statistics().current_buffer_used


@asynccontextmanager
async def follow(rig: WebRig, query: str = QUERY, stream: RingStream | None = None) -> AsyncIterator[Reader]:
    reader = Reader()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": query.encode()}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream or RingStream(rig.control), scope, reader.receive, reader.sender.send)
        yield reader
        reader.gone.set()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_pictures_come_at_once_and_again_only_when_they_change() -> None:
    async with open_web() as rig, follow(rig) as reader:
        assert await reader.status() == 200
        kind, pictures = await reader.message()
        assert (kind, list(pictures)) == ("rings", ["requestq1"])
        assert set(pictures["requestq1"]) == {"wheel", "tables"}
        await trio.sleep(1)
        while not reader.nothing():  # the age of the oldest chain is a part of the picture
            kind, pictures = await reader.message()
        rig.world.links["pcie0"].bring_down()
        with trio.fail_after(10):
            while "no ring" not in pictures["requestq1"]["wheel"]:
                kind, pictures = await reader.message()


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("device=moon&queue=requestq1", "device 'moon': must be one of blk0"),
        ("device=blk0&queue=q9", "blk0: queue 'q9': must be one of requestq1"),
    ],
)
async def test_unknown_names_are_a_reason(query: str, why: str) -> None:
    async with open_web() as rig, follow(rig, query) as reader:
        assert await reader.status() == 200
        assert await reader.message() == ("absent", {"why": why})
        await trio.sleep(5)
        assert reader.nothing()


async def test_pictures_come_back_with_the_system() -> None:
    async with open_web() as rig:
        rig.running = False
        async with follow(rig) as reader:
            await reader.status()
            assert (await reader.message())[0] == "absent"
            rig.running = True
            assert (await reader.message())[0] == "rings"


async def test_further_streams_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings_module, "CLIENTS_MAX", 1)
    async with open_web() as rig:
        stream = RingStream(rig.control)
        async with follow(rig, stream=stream) as first:
            assert await first.status() == 200
            async with follow(rig, stream=stream) as second:
                assert await second.status() == 503
        async with follow(rig, stream=stream) as third:
            assert await third.status() == 200
