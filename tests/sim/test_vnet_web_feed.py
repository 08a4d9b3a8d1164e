"""The feed follows a system while a page is open, and a page that reads slowly loses events, which are counted."""

from __future__ import annotations

import json
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from drivers.contracts.events import Topic
from support.rigs.web import WebRig, open_web
from vnet.web.feed import CLIENTS_MAX
from vnet.web.mailbox import EVENTS_MAX, Mailbox


async def take(mailbox: Mailbox, kind: str) -> Any:
    """The next message of a kind; others are skipped."""
    while True:
        for own, data in await mailbox.take():
            if own == kind:
                return json.loads(data)


def emitters(rig: WebRig) -> list[Topic]:
    """The topics that something listens to."""
    return [topic for topic in Topic if getattr(rig.world.events, topic.name.lower()) is not None]


def flap(rig: WebRig) -> None:
    rig.world.links["pcie0"].bring_down()
    rig.world.links["pcie0"].bring_up()


async def test_no_open_page_means_no_question_to_the_system() -> None:
    async with open_web() as rig:
        before = emitters(rig)
        await trio.sleep(60)
        assert rig.connections == 0
        with rig.feed.subscribe() as mailbox:
            assert (await take(mailbox, "rates"))["system"] == "t"
            assert rig.connections == 2  # one for looks, one for events
            await trio.sleep(60)
            assert rig.connections == 2
            assert emitters(rig) != before
        await wait_all_tasks_blocked()
        assert emitters(rig) == before
        for _ in range(3):
            with rig.feed.subscribe() as mailbox:
                await take(mailbox, "rates")
            await wait_all_tasks_blocked()
        assert rig.connections == 8


async def test_the_first_rates_name_all_parts_and_are_zero() -> None:
    async with open_web() as rig:
        with rig.feed.subscribe() as mailbox:
            rates = await take(mailbox, "rates")
            assert (rates["links"], [device["name"] for device in rates["devices"]]) == ({"pcie0": True}, ["blk0"])
            assert {queue["packets"] for queue in rates["queues"]} == {0}
            assert (await take(mailbox, "rates"))["seconds"] == 1
            with rig.feed.subscribe() as second:
                assert [kind for kind, _ in second.take_nowait()] == ["rates"]


async def test_events_come_to_every_page() -> None:
    async with open_web() as rig:
        with rig.feed.subscribe() as one, rig.feed.subscribe() as other:
            await wait_all_tasks_blocked()
            flap(rig)
            for mailbox in (one, other):
                event = await take(mailbox, "event")
                assert (event["event"], event["data"]["link"]) == ("VNET_LINK_DOWN", "pcie0")


async def test_a_page_that_does_not_read_loses_events_which_are_counted() -> None:
    async with open_web() as rig:
        with rig.feed.subscribe() as slow, rig.feed.subscribe() as fast:
            await wait_all_tasks_blocked()
            number = 0
            while number <= EVENTS_MAX:
                flap(rig)
                await trio.sleep(1)
                number += sum(kind == "event" for kind, _ in fast.take_nowait())
            taken = slow.take_nowait()
            assert [kind for kind, _ in taken if kind != "event"] == ["rates", "lost"]
            assert sum(kind == "event" for kind, _ in taken) == EVENTS_MAX
            assert taken[-1] == ("lost", str(number - EVENTS_MAX))
            flap(rig)
            assert (await take(slow, "event"))["event"] == "VNET_LINK_DOWN"


async def test_events_that_the_system_dropped_are_counted_too() -> None:
    async with open_web() as rig:
        with rig.feed.subscribe() as mailbox:
            await wait_all_tasks_blocked()
            for _ in range(2000):
                flap(rig)
            assert await take(mailbox, "lost") > 0


async def test_a_system_that_ends_and_starts_again_is_followed_again() -> None:
    async with open_web() as rig:
        with rig.feed.subscribe() as mailbox:
            await take(mailbox, "rates")
            rig.running = False
            for stream in rig.open:
                await trio.aclose_forcefully(stream)
            assert await take(mailbox, "absent") == {"why": "t is not running; try: vnet up --name t"}
            with rig.feed.subscribe() as second:
                assert [kind for kind, _ in second.take_nowait()] == ["absent"]
            rig.running = True
            assert (await take(mailbox, "rates"))["system"] == "t"
            await trio.sleep(2)
            flap(rig)
            assert (await take(mailbox, "event"))["event"] == "VNET_LINK_DOWN"


async def test_pages_beyond_the_limit_are_refused() -> None:
    async with open_web() as rig:
        mailboxes = [rig.feed.subscribe() for _ in range(CLIENTS_MAX)]
        for each in mailboxes:
            each.__enter__()
        assert (await rig.browser.get("/api/stream")).status_code == 503
        for each in mailboxes:
            each.__exit__(None, None, None)
        assert not rig.feed.full
