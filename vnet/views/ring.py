"""Views of rings: one with the bytes and every outstanding chain, and a small one of the slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

from rings.queue import QueueState
from rings.view import RingView

__all__ = ["RingReport", "RingSlots", "RingSlotsOfQueues", "SlotRun", "slots_of"]


@attrs.frozen
class RingReport:
    """The ring of a queue, as it stands in the driver's memory, and the indices that each side keeps for itself."""

    driver: QueueState | None
    """None while the driver has no ring."""
    device: QueueState | None
    """None while the device has no ring, or if the device is in another process."""
    ring: RingView | None
    """None while the driver has no ring."""
    waited: float | None = None
    """Seconds that the oldest chain has been outstanding at least, according to earlier looks; 0 at a first look. None
    if no chain is outstanding."""

    @property
    def age(self) -> str:
        """How long the oldest chain has been outstanding, as far as looks can tell; empty if no chain is."""
        if self.waited is None:
            return ""
        if self.waited:
            return f"the oldest chain has been outstanding for at least {self.waited:.1f} s: an earlier look saw it"
        return "the oldest chain: outstanding for an unknown time; the next look will tell more"


@attrs.frozen
class SlotRun:
    """Adjacent slots of a ring."""

    first: int
    count: int


@attrs.frozen
class RingSlots:
    """The slots of a ring that are outstanding, and the indices that each side keeps for itself."""

    driver: QueueState | None
    """None while the driver has no ring."""
    device: QueueState | None
    """None while the device has no ring, or if the device is in another process."""
    format: str = ""
    """Either split or packed; empty while the driver has no ring."""
    num: int = 0
    """Queue size in descriptors."""
    outstanding: int = 0
    """Outstanding chains."""
    busy: tuple[SlotRun, ...] = ()
    """Their slots: in the available ring (split) or in the descriptor ring (packed)."""


@attrs.frozen
class RingSlotsOfQueues:
    """The rings of a device."""

    queues: Mapping[str, RingSlots]
    """Rings by the name of their queue."""


def slots_of(report: RingReport) -> RingSlots:
    """Return the slots of a ring."""
    ring = report.ring
    if ring is None:
        return RingSlots(report.driver, report.device)
    busy = tuple(_runs(sorted(_busy_slots(ring))))
    return RingSlots(report.driver, report.device, ring.format, ring.num, len(ring.chains), busy)


def _busy_slots(view: RingView) -> set[int]:
    if view.format == "split":
        return {chain.position % view.num for chain in view.chains}
    return {desc.index % view.num for chain in view.chains for desc in chain.descriptors}


def _runs(slots: Iterable[int]) -> Iterator[SlotRun]:
    """Yield each run of adjacent numbers."""
    first, count = 0, 0
    for slot in slots:
        if count and slot == first + count:
            count += 1
            continue
        if count:
            yield SlotRun(first, count)
        first, count = slot, 1
    if count:
        yield SlotRun(first, count)
