"""A network device with a control queue."""

from __future__ import annotations

import trio.testing

from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from vnet.testing import OFFERED, HostileDriver, NetPair, Options, bounded

WITH = Options(queue_size=16, control=True)
WITHOUT = Options(queue_size=16)
OWN, PEER, OTHER = (b"\x02\0\0\0\0" + bytes([last]) for last in (1, 2, 9))
GROUP, BROADCAST = b"\x01\0\x5e\0\0\x01", b"\xff" * 6


def frame(to: bytes, body: bytes = b"\x88\xb5 some bytes") -> bytes:
    return to + PEER + body


def tagged(vid: int) -> bytes:
    return frame(OWN, b"\x81\0" + vid.to_bytes(2, "big") + b"\x88\xb5 tagged")


FRAMES = {"own": frame(OWN), "other": frame(OTHER), "group": frame(GROUP), "broadcast": frame(BROADCAST)}
FRAMES |= {"vlan 5": tagged(5), "vlan 6": tagged(6)}


async def start(driver: HostileDriver[NetPair], features: int = OFFERED) -> None:
    """Three queues, the third of them for commands."""
    await driver.negotiate(features)
    driver.map_vectors(3)
    driver.rings = [driver.set_up(queue) for queue in range(3)]
    driver.status |= Status.DRIVER_OK
    await trio.testing.wait_all_tasks_blocked()


async def ask(driver: HostileDriver[NetPair], data: bytes, *sizes: int, room: int = 1) -> bytes:
    """Give a command in pieces of these ``sizes`` and the rest; what the device wrote in answer."""
    answer, descs, at = driver.put(b"\xee" * room), [], 0
    for size in (*sizes, len(data) - sum(sizes)):
        descs.append(Desc(driver.put(data[at : at + size]), size))
        at += size
    ring = driver.rings[2]
    index = ring.used_idx
    driver.send(*descs, Desc(answer, room, WRITE), head=0, queue=2)
    with bounded():
        await trio.testing.wait_all_tasks_blocked()
    assert ring.used_idx == index + 1 & 0xFFFF
    assert ring.elem(index % ring.num) == (0, 1)
    return driver.get(answer, room)


OK, ERR = b"\0", b"\1"
