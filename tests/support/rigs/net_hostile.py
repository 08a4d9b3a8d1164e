"""A network device with a hostile end, and its exact outcomes."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing

from rings.testing import Desc
from support.rigs.frames import HEADER
from vnet.testing import (
    FRAME,
    HostileDriver,
    NetPair,
    Options,
    bounded,
)

SMALL = Options(queue_size=16)
LENGTH = len(HEADER) + len(FRAME)


async def works(driver: HostileDriver[NetPair], head: int = 8) -> None:
    driver.send(Desc(driver.put(HEADER + FRAME), LENGTH), head=head)
    with bounded():
        assert (await driver.pair.device_port.receive())[1] == FRAME
    await trio.testing.wait_all_tasks_blocked()


def at(addr: int) -> Callable[[HostileDriver[NetPair]], None]:
    """A buffer at an address that is none."""

    def spoil(driver: HostileDriver[NetPair]) -> None:
        driver.rings[1].write(0, Desc(addr, 64))
        driver.rings[1].offer(0)

    return spoil
