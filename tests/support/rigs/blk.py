"""Block requests that a hostile driver writes by hand."""

from __future__ import annotations

import os

from drivers.devices.blk import Disk
from rings.memory import Addr
from rings.testing import Desc
from vnet.testing.blk import BlkOptions, BlkPair
from vnet.testing.hostile import HostileDevice

TWO = BlkOptions(queues=2, queue_size=16)


def answer(pair: BlkPair, status: int, size: int, queue: int = 0) -> None:
    """The next request that waits gets this status and length, without anything being done."""
    device = HostileDevice(pair)
    ring = device.rings[queue]
    head = ring.entry(ring.used_idx)
    table = ring.read(head)
    last = Desc.parse(bytes(device.memory.view(Addr(table.addr), table.size))[-16:])
    device.memory.view(Addr(last.addr), 1, True)[0] = status
    ring.give(head, size)
    device.call(queue)
    device.close()


KIB, MIB = 1 << 10, 1 << 20


async def exercise(disk: Disk) -> None:
    """Every request there is, once."""
    geometry = await disk.wait_online()
    block = geometry.block_size
    data = os.urandom(3 * MIB)
    await disk.write(block, data)
    assert await disk.read(block, len(data)) == data
    await disk.flush()
    if geometry.discard_max:
        await disk.discard(0, 64 * KIB)
    await disk.write_zeroes(64 * KIB, MIB, unmap=True)
    assert await disk.read(64 * KIB, MIB) == bytes(MIB)
    assert await disk.get_id() == b"disk0"
