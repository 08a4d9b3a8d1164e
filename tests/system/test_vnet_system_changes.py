"""A device with real traffic stays while others, with namespaces and interfaces of their own, come and go."""

from __future__ import annotations

import os
import tomllib
from functools import partial

import pytest
import trio

from support.machine import RequireTool
from support.paths import ROOT
from vnet.linux.netns import NETNS_DIR
from vnet.system.world import open_world
from vnet.testing.footprint import fds, maps
from vnet.topology import load, parse
from vnet.topology.reader import from_tables
from vnet.traffic.kernel import PingResult, iperf3, iperf3_server, ping

pytestmark = pytest.mark.usefixtures("privileged", "no_leaks")

EXAMPLES = ROOT / "examples" / "topologies"
CARD = """
[hosts.card]
memory = 48
[links.pcie1]
root = "rc"
endpoint = "card"
[devices.net1]
link = "pcie1"
queue_size = 64
driver = { ifname = "vnet1", addresses = ["198.18.1.1/24"] }
device = { addresses = ["198.18.1.2/24"] }
"""
ROUNDS = 4


def footprint() -> tuple[int, int, int]:
    return trio.lowlevel.current_statistics().tasks_living, fds(), maps()


async def test_pings_and_a_stream_of_one_device_do_not_notice_that_others_come_and_go(
    require_tool: RequireTool,
) -> None:
    require_tool("ping", "iperf3")
    name = f"t{os.getpid()}"
    rc, ep, card = (f"{name}-{host}" for host in ("rc", "ep", "card"))
    results: list[PingResult] = []

    async def ping_for_long() -> None:
        results.append(await ping(rc, "198.18.0.2", count=500, interval=0.01))

    async with open_world(load(EXAMPLES / "rc_ep.toml"), name) as world, iperf3_server(ep):
        await world.wait_up()
        stays = world.devices["net0"]
        resets = stays.vhost.resets
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping_for_long)
            nursery.start_soon(partial(iperf3, rc, "198.18.0.2", seconds=4))
            for number in range(ROUNDS):
                await world.add(parse(CARD, running=world.topology))
                assert (await ping(rc, "198.18.1.2", count=3)).lost == 0
                for part in ("net1", "pcie1", "card"):
                    await world.remove(part, surprise=bool(number % 2))
                assert not (NETNS_DIR / card).exists()
        assert [result.lost for result in results] == [0]
        assert stays.vhost.resets == resets
        before = footprint()
        await world.add(parse(CARD, running=world.topology))
        await world.remove("pcie1")
        await world.remove("card")
        assert footprint() == before


BYSTANDER = """
[hosts.other]
[devices.stays]
transport = "mmio"
host = "other"
driver = { addresses = ["198.18.7.1/24"] }
device = { addresses = ["198.18.7.2/24"] }
"""


async def test_a_system_becomes_each_of_several_examples_while_a_device_that_is_in_all_of_them_answers_pings(
    require_tool: RequireTool,
) -> None:
    require_tool("ping")
    name = f"t{os.getpid()}"
    files = [EXAMPLES / f"{example}.toml" for example in ("rc_ep", "two_functions", "ntb", "two_endpoints", "mmio")]
    wanted = [from_tables(tomllib.loads(file.read_text() + BYSTANDER), file.name, sized=False) for file in files]
    async with open_world(wanted[0], name) as world:
        await world.wait_up()
        resets = world.devices["stays"].vhost.resets
        results: list[PingResult] = []

        async def ping_once() -> None:
            results.append(await ping(f"{name}-other", "198.18.7.2", count=50, interval=0.01))

        for topology in (*wanted[1:], wanted[0]):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ping_once)
                await world.apply(topology)
            driver, _ = world.topology.ends(world.topology.devices["net0"])
            assert (await ping(f"{name}-{driver}", "198.18.0.2", count=3)).lost == 0
            own = {netns.name for netns in NETNS_DIR.glob(f"{name}-*")}
            assert own == set(world.topology.own_netns(name))
        assert [result.lost for result in results] == [0] * len(wanted)
        assert world.devices["stays"].vhost.resets == resets
