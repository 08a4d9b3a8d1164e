"""Every device type with its driver in one system and its device served at a socket, as in two processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from vnet.ends import DEVICE_TYPES
from vnet.ends.blk import DiskEnd
from vnet.ends.net.end import NetEnd
from vnet.ports.packet.memory import MemoryPort
from vnet.system.exports import DeviceExport, Served, open_exports
from vnet.system.world import World, open_world
from vnet.testing import FRAME, until
from vnet.topology import parse, parse_device

DEVICE: Mapping[str, dict[str, Any]] = {
    "net": {"device": {"kind": "memory"}},
    "blk": {"device": {"size": 1}},
    "scsi": {},
    "rpmsg": {"device": {"channels": [{"name": "echo", "surface": "echo"}]}},
}
"""Options that each device type needs."""
TOPOLOGY = """\
[hosts.rc]
memory = 48
[devices.it]
type = "{kind}"
transport = "vhost_user"
host = "rc"
socket = "{path}"
{driver}
"""
DRIVER = {"net": "driver = {kind = 'memory'}", "rpmsg": "driver = {channels = [{name = 'echo'}]}"}


async def net(world: World, served: Served) -> None:
    assert isinstance(served.end, NetEnd)
    ours, theirs = world.memory_port("it", "driver"), served.end.port
    assert isinstance(theirs, MemoryPort)
    ours.inject(FRAME)
    assert (await theirs.receive())[1] == FRAME
    theirs.inject(FRAME)
    assert (await ours.receive())[1] == FRAME


async def blk(world: World, served: Served) -> None:
    end = world.devices["it"].driver_end
    assert isinstance(end, DiskEnd)
    await end.disk.write(4096, b"x" * 4096)
    assert await end.disk.read(4096, 4096) == b"x" * 4096


async def nothing(world: World, served: Served) -> None:
    """That it is up is all."""


EXERCISES = {"net": net, "blk": blk}


@pytest.mark.parametrize("kind", DEVICE_TYPES)
async def test_a_served_device_of_any_type_is_used_and_used_again_after_it_was_gone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    export = DeviceExport(parse_device({"type": kind, **DEVICE[kind]}, "test"), path)
    topology = parse(TOPOLOGY.format(kind=kind, path=path, driver=DRIVER.get(kind, "")))
    async with open_world(topology, "test") as world:
        for turn in range(2):
            async with open_exports({"it": export}) as served:
                await world.wait_up()
                with trio.fail_after(5):
                    await EXERCISES.get(kind, nothing)(world, served["it"])
                virtio = world.devices["it"].virtio
                assert virtio is not None
                assert virtio.restarts == turn
            await until(lambda: not world.devices["it"].up)
