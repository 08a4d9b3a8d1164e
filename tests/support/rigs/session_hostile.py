"""A vhost-user back end and the exact outcomes of a hostile front end."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drivers.devices.blk import BlkPlug
from support.rigs.vhost_user import MIB, Bench, open_bench, request
from vnet.testing.blk import StubbornStore

SIZE = MIB


@asynccontextmanager
async def bench_() -> AsyncIterator[Bench]:
    async with open_bench(BlkPlug(StubbornStore(SIZE))) as bench:
        yield bench


async def works(bench: Bench) -> None:
    """The next front end finds everything as it should be (U6)."""
    async with bench.front() as front:
        await front.bring_up()
        data = os.urandom(64 << 10)
        assert (await request(front, front.rings[0], 1, 8, data))[-1] == 0
        assert await request(front, front.rings[0], 0, 8, len(data)) == data + b"\0"


def header(request_: int, flags: int, size: int) -> bytes:
    return struct.pack("<III", request_, flags, size)
