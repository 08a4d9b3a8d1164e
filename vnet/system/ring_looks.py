"""How long chains have been outstanding, from one look at a ring to the next. Costs nothing between two looks."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import attrs

from rings.queue import QueueStatistics, Virtqueue, Vringh
from rings.view import RingView
from vnet.system.device import Device

__all__ = ["RingLooks", "all_used"]


def all_used(counters: QueueStatistics, view: RingView) -> QueueStatistics:
    """Return a driver's counters with all used chains as returned: a driver may leave them in the ring for long."""
    return attrs.evolve(counters, returned=counters.chains - len(view.chains))


class RingLooks:
    """Remembers what earlier looks at rings have seen.

    A ring keeps no times. But if fewer chains came back since an earlier look than were outstanding then, at least one
    of those is outstanding still, in whatever order the device uses them.
    """

    def __init__(self) -> None:
        self._looks: WeakKeyDictionary[Virtqueue | Vringh, dict[int, float]] = WeakKeyDictionary()
        """Times of the first looks that saw a number of chains added, by ring and number, both rising."""

    def waited(self, ring: Virtqueue | Vringh, counters: QueueStatistics, now: float) -> float | None:
        """Return the seconds that the oldest chain has been outstanding at least; None if no chain is.

        It is 0 at a first look. ``counters`` are the ring's, and ``now`` is the time of this look in seconds.
        """
        looks = self._looks.setdefault(ring, {})
        for added in [added for added in looks if added <= counters.returned]:
            del looks[added]  # all chains of that look may have come back
        if counters.chains == counters.returned:
            return None
        looks.setdefault(counters.chains, now)
        return now - next(iter(looks.values()))

    def look(self, devices: Iterable[Device], now: float) -> None:
        """Look at the rings of all queues of ``devices``, so that a later look knows the age of their chains."""
        for device in devices:
            for queue in device.asking_queues:
                if queue.ring is not None:
                    self.waited(queue.ring, queue.ring.statistics(), now)
