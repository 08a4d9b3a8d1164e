"""Where a device goes on in a packed ring that another one served, by what stands in the descriptors.

A packed ring has no index that a new device could read, and who sets it up may know no more than where it once began.
Yet the driver writes every descriptor once in each lap, so that the flags say which one was used last.
"""

from __future__ import annotations

from collections.abc import Sequence

from rings.layout import NEXT
from rings.packed.ring import FIRST_LAP, HANDS, at, available

__all__ = ["used_next"]


def used_next(flags: Sequence[int], told: int) -> int:
    """The position that the device uses next, by the flags of all descriptors; ``told`` where they leave it open.

    That is behind the last chain that was used. A chain of several descriptors leaves all but its first as they were,
    as if they were still available: ``told`` decides whether there are such, and is not believed otherwise.
    """
    num = len(flags)
    laps = [(slot, word & HANDS == HANDS) for slot, word in enumerate(flags) if word & HANDS in (0, HANDS)]
    changes = [i for i in range(1, len(laps)) if laps[i][1] != laps[i - 1][1]]
    if len(changes) > 1:
        return told  # no device leaves a ring like that
    if not laps:
        # All are available: those of the later lap come first in the ring.
        first = bool(flags[0] & HANDS == available(1))
        turn = next((slot for slot, word in enumerate(flags) if word & HANDS != available(first)), 0)
        return at(turn, first ^ (turn > 0))
    last, lap = laps[changes[0] - 1 if changes else -1]
    place = _behind(last, lap, 1, num)
    for count in range(1, num):
        slot, lap_there = place % FIRST_LAP, place // FIRST_LAP
        rest = flags[(slot + count - 1) % num]
        if rest & HANDS != available(lap_there ^ (slot + count > num)):
            break
        if not rest & NEXT:
            return told if told == _behind(slot, lap_there, count, num) else place
    return place


def _behind(slot: int, lap: int, count: int, num: int) -> int:
    """The position so many descriptors further on."""
    return at((slot + count) % num, lap ^ (slot + count >= num))
