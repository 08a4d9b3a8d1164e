"""Many links in one process: all come up, all carry traffic, and interfaces are watched once per namespace."""

from __future__ import annotations

import os
import threading
from functools import partial

import pytest
import trio

from support.machine import RequireTool
from vnet.bench.links import addresses, links_topology
from vnet.linux.background import gather
from vnet.linux.netns import open_netns
from vnet.system.world import open_world
from vnet.traffic.kernel import ping

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

LINKS = 40


@pytest.mark.timeout(600)
async def test_forty_links_come_up_and_each_carries_a_ping(require_tool: RequireTool) -> None:
    require_tool("ping")
    netns = f"t{os.getpid()}-rc", f"t{os.getpid()}-ep"
    async with open_netns(netns[0]), open_netns(netns[1]):
        async with open_world(links_topology(LINKS, netns), f"t{os.getpid()}") as world:
            await world.wait_up()
            threads = threading.active_count()
            pings = [partial(ping, netns[0], addresses(link)[1], count=1) for link in range(LINKS)]
            for at in range(0, LINKS, 8):
                assert [result.lost for result in await gather(pings[at : at + 8])] == [0] * 8
            assert world.watches is not None
            assert world.watches.dumps == len(netns)
            assert threading.active_count() <= threads + 1
        await trio.lowlevel.checkpoint()
