"""A hostile virtio-pci driver and its exact outcomes."""

from __future__ import annotations

from rings.layout import WRITE
from rings.testing import Desc
from vnet.testing import FRAME, HostileDriver, NetPair, Options, bounded, until

SMALL = Options(queue_size=16)
HEADER = bytes(12)
LENGTH = len(HEADER) + len(FRAME)


async def works(driver: HostileDriver[NetPair], head: int = 5) -> None:
    """One frame crosses in each direction."""
    pair = driver.pair
    driver.send(Desc(driver.put(HEADER + FRAME), LENGTH), head=head)
    with bounded():
        assert (await pair.device_port.receive())[1] == FRAME
    room, used = driver.alloc(2000), driver.rings[0].used_idx
    driver.send(Desc(room, 2000, WRITE), head=head, queue=0)
    pair.device_port.inject(FRAME)
    await until(lambda: driver.rings[0].used_idx == used + 1 & 0xFFFF)
    assert driver.get(room, LENGTH)[12:] == FRAME
