"""ping's verdict on a stack that stands still for a while, and on one that loses packets."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from support.machine import RequireTool
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse
from vnet.traffic.kernel import PingResult, ping

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

LATE = 1.0
"""Seconds of the stack's pause: much more than twice the first round trip."""


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    async with open_world(parse(DEFAULT), f"t{os.getpid()}-ping") as world:
        await world.wait_up()
        yield world


@pytest.mark.parametrize("target", ["198.18.0.2", "2001:2::2"])
async def test_replies_that_come_later_than_ping_waits_are_not_lost(target: str, require_tool: RequireTool) -> None:
    """The stack runs in this process: once it carried the first reply it carries nothing for a second."""
    require_tool("ping")
    async with running() as world:
        assert (await ping(world.netns("rc"), target, count=1)).lost == 0  # neighbours know each other
        actual: list[PingResult] = []

        async def run() -> None:
            actual.append(await ping(world.netns("rc"), target, count=3))

        async with trio.open_nursery() as nursery:
            queue = world.devices["net0"].vhost.queues[1]
            before = queue.statistics().chains
            nursery.start_soon(run)
            while queue.statistics().chains == before:  # noqa: ASYNC110  a figure has no event
                await trio.sleep(0.001)
            await trio.sleep(0.005)
            time.sleep(LATE)  # noqa: ASYNC251  that is what is tested
        assert (actual[0].sent, actual[0].received, actual[0].lost) == (3, 3, 0)


async def test_unanswered_requests_are_lost(require_tool: RequireTool) -> None:
    require_tool("ping")
    async with running() as world:
        actual = await ping(world.netns("rc"), "198.18.0.9", count=3, wait=0.5)
        assert (actual.sent, actual.received, actual.failure()) == (3, 0, "lost 3 of 3")
        world.links["pcie0"].bring_down()
        actual = await ping(world.netns("rc"), "198.18.0.2", count=3, wait=0.5)
        assert (actual.sent, actual.received) == (3, 0)
