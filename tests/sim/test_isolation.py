"""While a device is attacked, another one of the same process keeps nine of ten turns: counted, not timed (U5).

A turn is a pass of the scheduler. How long one is, and so the rate on a real clock, is what `tests/isolation` measures.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from isolation.front import bring_up
from isolation.table import ATTACKS, DISK, Attack

from drivers.devices.blk.layout import HEADER, RequestType
from vnet.check.front import Front
from vnet.check.split import Buffer
from vnet.check.vhost_user import VhostUserFront
from vnet.system.exports import DeviceExport, open_exports
from vnet.topology import parse_device

DEPTH, TURNS = 8, 300
MEMORY = {"store": "memory", "size": 8}
DEVICES: Mapping[str, Mapping[str, Any]] = {
    "victim": {"type": "blk", "device": MEMORY},
    "blk": {"type": "blk", "queues": 2, "queue_size": 1024, "device": MEMORY},
    "scsi": {"type": "scsi", "queue_size": 1024, "device": {"luns": [MEMORY]}},
    "rpmsg": {"type": "rpmsg", "device": {"channels": [{"name": "echo", "surface": "echo"}]}},
    "net": {"type": "net", "device": {"kind": "memory"}},
    "function": {"type": "blk", "device": MEMORY},
}
ON_QUEUES = [attack for attack in ATTACKS.values() if attack.on_queues is not None]


def reads(front: Front, index: int) -> Iterator[int]:
    """Read 4 KiB at a time, some at once; yields how many were done since the last time."""
    ring = front.rings[index].split
    header = Buffer(front.arena.put(HEADER.pack(RequestType.IN, 0, 0)), HEADER.size)
    data, status = Buffer(front.arena.alloc(4096), 4096, True), Buffer(front.arena.alloc(1), 1, True)
    free = [ring.chain([header, data, status]) for _ in range(DEPTH)]
    while True:
        if free:
            ring.offer(*free)
            front.rings[index].kick()
        yield len(free)
        free = [head for head, _ in ring.answers()]


async def turns(victim: Iterator[int], attack: Iterator[int] | None) -> int:
    """The requests that the victim has done in a number of turns, in each of which the attack goes on."""
    done = 0
    for _ in range(TURNS):
        if attack is not None:
            next(attack)
        done += next(victim)
        await trio.lowlevel.checkpoint()
    return done


@asynccontextmanager
async def served(folder: Path, *names: str) -> AsyncIterator[None]:
    """Serve these devices, each at a socket of its name."""
    async with open_exports(
        {
            name: DeviceExport(parse_device(DEVICES[name], ""), folder / name, vfio_user=name == "function")
            for name in names
        },
        report=lambda _: None,
    ):
        yield


async def keeps_turns(victim: Front, ring: int, attack: Iterator[int]) -> bool:
    reading = reads(victim, ring)
    await turns(reading, None)
    quiet = await turns(reading, None)
    assert quiet >= TURNS
    return await turns(reading, attack) >= 0.9 * quiet


@pytest.mark.parametrize("attack", ON_QUEUES, ids=lambda attack: attack.name)
async def test_a_disk_keeps_nine_of_ten_turns_beside_an_attacked_device(attack: Attack, tmp_path: Path) -> None:
    device = attack.device
    assert device is not None
    assert attack.on_queues is not None
    async with served(tmp_path, "victim", device.name):
        victim = await bring_up(tmp_path / "victim", VhostUserFront, {0: 64})
        front = await bring_up(tmp_path / device.name, device.kind, device.rings, device.features)
        with closing(victim), closing(front):
            assert await keeps_turns(victim, 0, attack.on_queues(front))


@pytest.mark.parametrize("attack", [each for each in ON_QUEUES if each.device is DISK], ids=lambda attack: attack.name)
async def test_a_queue_of_a_disk_keeps_nine_of_ten_turns_beside_an_attacked_one(attack: Attack, tmp_path: Path) -> None:
    assert attack.on_queues is not None
    async with served(tmp_path, "blk"):
        front = await bring_up(tmp_path / "blk", VhostUserFront, {**DISK.rings, 1: 64}, DISK.features)
        with closing(front):
            assert await keeps_turns(front, 1, attack.on_queues(front))
