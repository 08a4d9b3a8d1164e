"""Rings of the prompt of ``vnet shell``: each is what its driver has in its own memory."""

from __future__ import annotations

import pytest

from vnet.cli.shell import Rings
from vnet.system.snapshot import queue_sides
from vnet.system.world import open_world
from vnet.topology import DEFAULT, parse

IN_MEMORY = DEFAULT.replace('"tun"', '"memory"')


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_a_ring_is_seen_as_its_driver_sees_it(ring: str) -> None:
    text = IN_MEMORY.replace("[devices.net0]", f'[devices.net0]\nring = "{ring}"')
    async with open_world(parse(text), "t") as world:
        await world.wait_up()
        rings, sides = Rings(world.devices), queue_sides(world.devices["net0"])
        assert list(rings) == [f"net0.{name}" for name in sides]
        for name, (mine, _) in sides.items():
            assert mine is not None
            assert rings[f"net0.{name}"] == mine.ring.view()
