"""A system in a thread of its own with its own event loop, as in another process: accesses to it block the caller."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from vnet.ends.blk import DiskEnd
from vnet.system.world import World, open_world
from vnet.topology import Topology

__all__ = ["PATIENCE", "apart", "clock", "devices", "disk_works"]

PATIENCE = 60
"""Seconds, on a clock that does not jump."""
ENDS = {
    "net": "driver = { kind = 'memory' }\ndevice = { kind = 'memory' }",
    "blk": "device = { size = 1 }",
    "rpmsg": "device = { channels = [{ name = 'echo', surface = 'echo' }] }",
}
DEVICE = """
[devices.{name}]
type = "{name}"
transport = "{transport}"
link = "pcie0"
function = {function}
ring = "{ring}"
{ends}
"""


def devices(*kinds: str, transport: str = "pci", ring: str = "split") -> str:
    """Return the end of a topology of two hosts: a device of each kind, which is its name."""
    return "".join(
        DEVICE.format(name=kind, transport=transport, function=function, ring=ring, ends=ENDS.get(kind, ""))
        for function, kind in enumerate(kinds)
    )


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """A clock for tests that wait for another thread, which a clock that jumps would not wait for."""
    return trio.testing.MockClock(rate=1.0)


@asynccontextmanager
async def apart(
    topology: Topology, lines: list[str] | None = None, tokens: list[trio.lowlevel.TrioToken] | None = None
) -> AsyncIterator[World]:
    """Run a topology in another thread; yield its world, for looks alone. ``tokens`` takes the token of its loop."""
    worlds: list[World] = []
    end, ready = trio.Event(), threading.Event()
    tokens = [] if tokens is None else tokens
    report = (lines if lines is not None else list[str]()).append

    async def run() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with open_world(topology, "apart", report) as world:
            await world.wait_up()
            worlds.append(world)
            ready.set()
            await end.wait()

    def in_thread() -> None:
        try:
            trio.run(run)
        finally:
            ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, in_thread)
        await trio.to_thread.run_sync(ready.wait)
        try:
            [world] = worlds
            yield world
        finally:
            if worlds:
                tokens[0].run_sync_soon(end.set)


async def disk_works(world: World, size: int = 8192) -> None:
    """The device blk has the data that were written to it."""
    end, data = world.devices["blk"].driver_end, os.urandom(size)
    assert isinstance(end, DiskEnd)
    with trio.fail_after(PATIENCE):
        await end.disk.write(4096, data)
        assert await end.disk.read(4096, size) == data
