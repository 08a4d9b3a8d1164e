"""Checks of a running system that no load sees: its memory, its rings, its states and its counters."""

from __future__ import annotations

import trio

from vnet.system.snapshot import drop_total, queue_rows, take_snapshot
from vnet.system.world import World

__all__ = ["CheckError", "check_during", "check_end"]

INTERVAL = 0.25
"""Seconds between two checks of a system under load."""
GRACE = 10.0
"""Seconds that a verdict on a device may stand without a fault: longer than a stalled queue or a reset loop needs."""


class CheckError(Exception):
    """A rule does not hold; the message names the part and the rule."""


async def check_during(world: World, until: float) -> None:
    """Check at intervals what must hold at each instant. Raises CheckError."""
    while trio.current_time() < until:
        await trio.sleep(INTERVAL)
        _check_now(world)


def _check_now(world: World) -> None:
    for name, host in world.hosts.items():
        try:
            host.memory.check()
        except AssertionError:
            raise CheckError(f"host {name}: free and allocated parts of its memory overlap or leave a gap") from None
    for name, device in take_snapshot(world).devices.items():
        for _, side, queue in device.queues():
            if queue.ring is not None and not 0 <= queue.ring.in_flight <= queue.ring.num:
                count = f"{queue.ring.in_flight} of {queue.ring.num} chains are in flight"
                raise CheckError(f"{name} {queue.name} ({side}): {count}")


async def check_end(world: World, *, faultless: bool) -> None:
    """Check a system whose faults and loads have ended, then remove all of its devices. Raises CheckError.

    ``faultless``: there never was a fault, so that both sides have counted the same.
    """
    await trio.sleep(GRACE)
    _check_now(world)
    for name, view in take_snapshot(world).devices.items():
        if view.verdict is not None and view.verdict.rule != "lost-notifications":
            raise CheckError(f"{name} is not well without a fault: {view.verdict.text}")
    if faultless:
        _check_counters(world)
    await _check_removal(world)


def _check_counters(world: World) -> None:
    """Check that both sides of each queue count the same, and that nothing was dropped."""
    for drop, count in drop_total(world).items():
        raise CheckError(f"{count} dropped without a fault: {drop}")
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for row in queue_rows(world):
        spec, own = world.topology.devices.get(row.device), (row.counters.packets, row.counters.bytes)
        other = counts.setdefault((row.device, row.queue), own)
        # A mediator counts at its own end, and its local driver's device is none of the topology.
        if own != other and spec is not None and spec.mode == "direct":
            raise CheckError(f"{row.device} {row.queue}: {other} packets and bytes on one side, {own} on the other")


async def _check_removal(world: World) -> None:
    """Remove all devices; the memory of no host may stay allocated."""
    for name in list(world.topology.devices):
        await world.remove(name)
    for name in list(world.topology.ntbs):
        await world.remove(name)
    for name, host in world.hosts.items():
        left = host.memory.statistics()
        if left.buffers:
            raise CheckError(f"host {name}: {left.buffers} buffers of {left.used} bytes stay allocated without devices")
