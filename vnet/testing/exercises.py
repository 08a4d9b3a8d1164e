"""The exercise of a device type, on any transport, in each mode, and over links of every kind.

    await exercise("blk", "ntb", link="timed")

It is part of the type's record (`vnet.ends.kind.DeviceKind`), also for types and transports from outside.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from vnet.ends import DEVICE_TYPES
from vnet.ends.running import EXERCISE_SIZE
from vnet.system.snapshot import drop_total, queue_rows
from vnet.system.world import World, open_world
from vnet.testing.checks import until
from vnet.topology.samples import built_in

__all__ = ["LINKS", "exercise"]

FLAP = 0.2
"""Seconds that the links are down."""
LIMIT = 60.0
"""Seconds for any of it."""
TURNS = 1 << 30
"""No limit of steps: an exercise moves data while it waits."""

LINKS: Mapping[str, str] = {
    "ideal": "",
    "timed": "generation = 3\nlanes = 4\nread_latency_ns = 500",
    "faulty": "faults = { seed = 1, lost_doorbells = 0.2, lost_interrupts = 0.2, delayed_interrupts = 0.2 }",
    "wire": "wire = { seed = 1, bit_errors = 0.001, lost_acks = 0.001 }",
}
"""Keys of a topology for a link of each kind."""


async def exercise(kind: str, transport: str, mode: str = "direct", link: str = "ideal") -> None:
    """Once as it comes up, once over a flap of all links (or a reset where there are none), and once after that.

    Nothing may be dropped, and both sides have counted the same.
    """
    what, name = DEVICE_TYPES[kind].exercise, f"{kind}0"
    assert what is not None, f"device type {kind} has no exercise"
    async with open_world(built_in(kind, transport, what.keys, mode=mode, link=LINKS[link]), "exercise") as world:
        with trio.fail_after(LIMIT):
            await world.wait_up()
            device = world.running(name)
            await what.act(device)
            if mode == "direct":  # a mediator counts what its own end saw
                await until(lambda: _agree(world, name), LIMIT, TURNS)
            async with trio.open_nursery() as nursery:
                if what.kept:
                    nursery.start_soon(what.act, device)
                    await trio.lowlevel.checkpoint()
                await _interrupt(world, name)
            await what.act(device)
        lost = drop_total(world)
        assert not lost, f"{kind} over {transport}, {mode}, {link} link: {lost}"


async def _interrupt(world: World, name: str) -> None:
    if world.links:
        for link in world.links.values():
            link.bring_down()
        await trio.sleep(FLAP)
        for link in world.links.values():
            link.bring_up()
        await trio.sleep(FLAP)
    else:
        virtio = world.devices[name].virtio
        assert virtio is not None
        await world.devices[name].driver_host.virtio.rebind(virtio)
    await world.wait_up()


def _agree(world: World, name: str) -> bool:
    """Whether both sides of a device have counted the same."""
    rows = [row for row in queue_rows(world) if row.device == name]
    sides = [
        [(row.queue, row.counters.packets, row.counters.bytes) for row in rows if row.side == side]
        for side in ("driver", "device")
    ]
    return sides[0] == sides[1] and sum(row.counters.bytes for row in rows) >= EXERCISE_SIZE
