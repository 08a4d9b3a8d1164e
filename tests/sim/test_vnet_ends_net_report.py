"""Steering and statistics of a network device, as both sides show them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio.testing

from support.commands import command
from support.topologies import TWO_HOSTS
from vnet.cli.tree import tree
from vnet.system.snapshot import take_snapshot
from vnet.system.world import World, open_world
from vnet.topology import parse
from vnet.views.plain import to_plain

SEVERAL = (
    TWO_HOSTS
    + """\
[devices.net0]
link = "pcie0"
queue_pairs = 3
queue_size = 32
features_on = ["RSS"]
driver = { kind = "memory" }
device = { kind = "memory" }
"""
)


@asynccontextmanager
async def system() -> AsyncIterator[World]:
    async with open_world(parse(SEVERAL), "t") as world:
        await world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        yield world


async def change(world: World, setting: str, value: str = "") -> None:
    """As the control socket does it."""
    await command(world, "device-set", name="net0", setting=setting, value=value)


def networks(world: World) -> list[dict[str, Any]]:
    """Return the driver's and the device's report, as JSON has them."""
    device = json.loads(json.dumps(to_plain(take_snapshot(world))))["devices"]["net0"]
    return [device[side]["port"]["network"] for side in ("driver", "device")]


def text(world: World) -> str:
    return "\n".join(tree(take_snapshot(world)))


async def test_both_sides_say_how_frames_are_steered() -> None:
    async with system() as world:
        for setting, value in (("rss", "1,3"), ("unclassified", "3"), ("hash_types", "tcpv4,udpv6_ex")):
            await change(world, setting, value)
        wanted = {"types": ["tcpv4", "udpv6_ex"], "entries": {"receiveq1": 64, "receiveq3": 64}}
        wanted |= {"unclassified": "receiveq3"}
        assert [network["steering"] for network in networks(world)] == [wanted] * 2
        words = "steers by a hash of tcpv4 udpv6_ex: 64 entries to receiveq1, 64 entries to receiveq3; other frames to"
        assert text(world).count(words) == 2
        await change(world, "hash_types", "all")
        await change(world, "hash_key", "0f" * 40)
        assert [len(network["steering"]["types"]) for network in networks(world)] == [9, 9]
        await change(world, "hash_key", "default")
        await change(world, "rss", "off")
        assert [network["steering"] for network in networks(world)] == [None, None]


async def test_the_driver_shows_the_last_counters_of_its_device() -> None:
    async with system() as world:
        assert [network["device_counts"] for network in networks(world)] == [{}, {}]
        await change(world, "statistics")
        shown, none = (network["device_counts"] for network in networks(world))
        assert none == {}
        assert list(shown)[-1] == "controlq"
        assert shown["receiveq1"]["rx_packets"] == 0
        assert "the device counts for receiveq1: rx_notifications " in text(world)
