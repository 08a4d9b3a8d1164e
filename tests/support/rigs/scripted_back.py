"""Our driver on a scripted vhost-user back end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from support.topologies import VHOST_USER_DISK
from vnet.system.device import Device
from vnet.system.world import World, open_world
from vnet.testing import fds
from vnet.testing.scripted import ScriptedBack
from vnet.topology import parse


@asynccontextmanager
async def front(path: Path) -> AsyncIterator[tuple[World, Device]]:
    async with open_world(parse(VHOST_USER_DISK.format(path=path)), "test") as world:
        yield world, world.devices["disk0"]


@asynccontextmanager
async def meeting(back: ScriptedBack, path: Path) -> AsyncIterator[tuple[World, Device]]:
    """A front end that is up on ``back``; nothing is left afterwards."""
    before = fds()
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path / "socket")
        async with front(path / "socket") as (world, device):
            await world.wait_up()
            await trio.testing.wait_all_tasks_blocked()
            buffers = device.driver_host.memory.statistics().buffers
            yield world, device
            await world.wait_up()
            await trio.testing.wait_all_tasks_blocked()
            assert device.driver_host.memory.statistics().buffers == buffers
        nursery.cancel_scope.cancel()
    assert fds() <= before, "fewer are fine: other objects were collected meanwhile"
