"""Rings as they stand in their driver's memory. No access crosses a link."""

from __future__ import annotations

import attrs

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from rings.errors import MemoryFault
from rings.formats import ring_format
from rings.queue import Virtqueue
from rings.view import RingView
from vnet.system.device import Device
from vnet.system.ring_looks import RingLooks, all_used
from vnet.system.snapshot import queue_sides
from vnet.views.ring import RingReport, RingSlots, slots_of

__all__ = ["driver_ring", "take_ring", "take_ring_view", "take_slots"]


def driver_ring(queue: DriverQueue | None) -> Virtqueue | None:
    """Return the driver's ring; None if there is none, or if its memory is no longer mapped."""
    return queue.ring if queue is not None and queue.reachable() else None


def take_ring_view(device: Device, mine: DriverQueue | None, other: DeviceQueue | None) -> RingView | None:
    """Return the ring of a queue, given by its two sides; None if there is none.

    A driver in another process shares the memory of its rings; the device's side knows where they are.
    """
    ring = driver_ring(mine)
    if ring is not None:
        return ring.view()
    if device.driver_memory is None or other is None or other.ring is None or not other.reachable():
        return None
    try:
        memory = device.driver_memory()
    except MemoryFault:
        return None
    features = device.vhost.features
    return ring_format(features).view(memory, other.num, other.addrs, features, other.ring.state().used)


def take_ring(device: Device, queue: str, looks: RingLooks, now: float) -> RingReport:
    """Return the report of the ring of a queue at time ``now``.

    ``looks`` remembers the look, which is how a later one knows for how long chains have been outstanding.
    """
    mine, other = queue_sides(device)[queue]
    report, ring = _report(device, mine, other), driver_ring(mine)
    theirs = None if other is None else other.ring
    waited = None
    if ring is not None and report.ring is not None:
        waited = looks.waited(ring, all_used(ring.statistics(), report.ring), now)
    elif report.ring is not None and theirs is not None:
        # The driver's counter of chains is not known, but all that are not used are outstanding.
        counted = theirs.statistics()
        counted = attrs.evolve(counted, chains=counted.returned + len(report.ring.chains))
        waited = looks.waited(theirs, counted, now)
    return attrs.evolve(report, waited=waited)


def take_slots(device: Device, queue: str) -> RingSlots:
    """Return the slots of the ring of a queue."""
    return slots_of(_report(device, *queue_sides(device)[queue]))


def _report(device: Device, mine: DriverQueue | None, other: DeviceQueue | None) -> RingReport:
    ring = driver_ring(mine)
    return RingReport(
        driver=None if ring is None else ring.state(),
        device=None if other is None or other.ring is None else other.ring.state(),
        ring=take_ring_view(device, mine, other),
    )
