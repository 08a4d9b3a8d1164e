"""The stream of one browser, which may read slowly or disconnect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from support.rigs.web import WebRig, open_web
from vnet.web.mailbox import EVENTS_MAX
from vnet.web.stream import Stream


class Browser:
    """An ASGI server's view of a browser, which reads one message for each `read`."""

    def __init__(self) -> None:
        self._sender, self._receiver = trio.open_memory_channel[Mapping[str, Any]](0)
        self.gone = trio.Event()

    async def follow(self, rig: WebRig) -> None:
        async def receive() -> dict[str, Any]:
            await self.gone.wait()
            return {"type": "http.disconnect"}

        await Stream(rig.feed)({"type": "http"}, receive, self._sender.send)

    async def read(self) -> str:
        message = await self._receiver.receive()
        return str(message["status"]) if "status" in message else str(message["body"].decode())


async def test_a_browser_that_does_not_read_loses_events_after_a_number_of_them() -> None:
    async with open_web() as rig, trio.open_nursery() as nursery:
        browser = Browser()
        nursery.start_soon(browser.follow, rig)
        assert await browser.read() == "200"
        assert (await browser.read()).startswith('event: rates\ndata: {"system": "t"')
        link = rig.world.links["pcie0"]
        for _ in range(EVENTS_MAX):
            link.bring_down()
            link.bring_up()
            await trio.sleep(0.01)
        texts = [await browser.read(), await browser.read()]
        assert sum(text.count("event: event\n") for text in texts) <= 2 * EVENTS_MAX
        assert "event: lost\ndata: " in texts[-1]
        browser.gone.set()


async def test_a_browser_that_disconnects_while_it_does_not_read_is_forgotten() -> None:
    async with open_web() as rig, trio.open_nursery() as nursery:
        browser = Browser()
        nursery.start_soon(browser.follow, rig)
        await wait_all_tasks_blocked()
        browser.gone.set()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        await trio.sleep(60)
        connections = rig.connections
        await trio.sleep(60)
        assert rig.connections == connections
