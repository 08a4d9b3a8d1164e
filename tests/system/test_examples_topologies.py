"""Example topologies as they are, with the kernel's own stack at both ends: ping, and TCP if it is routed."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.machine import NETNS, RequireTool
from support.paths import TOPOLOGIES
from vnet.system.world import World, open_world
from vnet.topology import load
from vnet.traffic.kernel import iperf3, iperf3_server, ping

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

PINGS = {
    "rc_ep": [("rc", "198.18.0.2"), ("ep", "198.18.0.1"), ("rc", "2001:2::2"), ("ep", "2001:2::1")],
    "ntb": [("host2", "198.18.0.2"), ("host1", "198.18.0.1"), ("host2", "2001:2::2"), ("host1", "2001:2::1")],
    "mmio": [("soc", "198.18.0.2"), ("soc-dev", "198.18.0.1"), ("soc", "2001:2::2"), ("soc-dev", "2001:2::1")],
    "epf_mailbox": [("rc", "198.18.0.2"), ("ep", "198.18.0.1"), ("rc", "2001:2::2"), ("ep", "2001:2::1")],
    "two_functions": [("rc", "198.18.0.2"), ("rc", "198.18.1.2"), ("ep", "198.18.1.1"), ("ep", "2001:2:0:1::1")],
    "two_endpoints": [("ep0", "198.18.1.2"), ("ep1", "198.18.0.2"), ("ep0", "2001:2:0:1::2"), ("rc", "198.18.1.2")],
}
TCP = {
    "ntb": ("host2", "host1", "198.18.0.2"),
    "mmio": ("soc", "soc-dev", "198.18.0.2"),
    "epf_mailbox": ("rc", "ep", "198.18.0.2"),
    "two_endpoints": ("ep0", "ep1", "198.18.1.2"),
}
_serial = itertools.count(1)


@asynccontextmanager
async def running(example: str) -> AsyncIterator[World]:
    name = f"vt{os.getpid()}-{next(_serial)}"
    async with open_world(load(TOPOLOGIES / f"{example}.toml"), name) as world:
        await world.wait_up()
        yield world
    assert not list(NETNS.glob(f"{name}-*"))


@pytest.mark.parametrize("example", PINGS)
async def test_all_addresses_answer_all_hosts(example: str, require_tool: RequireTool) -> None:
    require_tool("ping")
    async with running(example) as world:
        for host, address in PINGS[example]:
            for size in (56, 20000):
                result = await ping(f"{world.name}-{host}", address, count=3, size=size)
                assert (result.sent, result.lost) == (3, 0), f"{host} to {address}, {size} bytes"


@pytest.mark.parametrize("example", TCP)
async def test_tcp_runs_both_ways(example: str, require_tool: RequireTool) -> None:
    require_tool("iperf3")
    source, target, address = TCP[example]
    async with running(example) as world, iperf3_server(f"{world.name}-{target}"):
        for reverse in (False, True):
            result = await iperf3(f"{world.name}-{source}", address, seconds=1, udp=False, bitrate="0", reverse=reverse)
            assert result.complete
