"""Where a device goes on in a packed ring that another one served, by what stands in the descriptors.

A packed ring has no index that a new device could read, and who sets it up may know no more than where it once began.
Yet the driver writes every descriptor once in each lap, so that the flags say which one was used last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rings.layout import NEXT
from rings.packed.ring import FIRST_LAP, HANDS, at, available, used

__all__ = ["used_next"]

NOWHERE = -1


def used_next(words: Sequence[int], told: int) -> int:
    """The position that the device uses next, by the second words of all descriptors; ``told`` if they leave it open.

    That is behind the last chain that was used, or where a device ended that had not yet shown the first of a batch. A
    chain of several descriptors leaves all but its first as they were, as if they were still available: ``told``
    decides whether there are such behind the last chain, and is not believed otherwise.
    """
    num = len(words)
    flags = [word >> 48 for word in words]
    if _untouched(flags, told):
        return told
    laps = [(slot, word & HANDS == HANDS) for slot, word in enumerate(flags) if word & HANDS in (0, HANDS)]
    changes = [i for i in range(1, len(laps)) if laps[i][1] != laps[i - 1][1]]
    if len(changes) > 1:
        return told  # no device leaves a ring like that
    if not laps:
        # All are available: those of the later lap come first in the ring.
        first = bool(flags[0] & HANDS == available(1))
        turn = next((slot for slot, word in enumerate(flags) if word & HANDS != available(first)), 0)
        return at(turn, first ^ (turn > 0))
    turn = changes[0] if changes else 0
    slot, lap = laps[turn - 1]
    places = [_behind(slot, lap, 1, num)]
    for count in range(1, num):
        place = _behind(slot, lap, count, num)
        rest = flags[place % FIRST_LAP]
        if rest & HANDS != available(place // FIRST_LAP):
            break
        if not rest & NEXT:
            places.append(_behind(slot, lap, count + 1, num))
            break
    if told in places:
        return told
    gap = _gap(words, laps[turn:] + laps[:turn])
    return places[0] if gap is None else gap


def _untouched(flags: Sequence[int], told: int) -> bool:
    """Whether no device used anything from ``told`` on.

    From there on, each descriptor is available in this lap or was used in the one before. That holds as well for a
    batch that the driver has not published: its first descriptor is still as it was, the others are available.
    """
    slot, lap = told % FIRST_LAP, told // FIRST_LAP
    return slot < len(flags) and all(
        word & HANDS in ((available(lap), used(lap ^ 1)) if place >= slot else (available(lap ^ 1), used(lap)))
        for place, word in enumerate(flags)
    )


def _gap(words: Sequence[int], order: Sequence[tuple[int, bool]]) -> int | None:
    """The one place between chains, in the order in which they were used, where a chain is still available."""
    num = len(words)
    gaps: list[int] = []
    oldest, lap = order[0]
    before = at((oldest - 1) % num, lap ^ (oldest == 0))
    if words[before % FIRST_LAP] >> 48 & HANDS == available(before // FIRST_LAP):
        gaps.append(before)  # had it been used, the driver would have made another one available there
    for (slot, lap), (following, _) in pairwise(order):
        place = _behind(slot, lap, 1, num)
        if place % FIRST_LAP != following:
            last = words[following - 1]
            # The rest of a chain of several descriptors has its buffer id.
            stale = last >> 32 & 0xFFFF == words[slot] >> 32 & 0xFFFF
            gaps.append(NOWHERE if stale else place)
    return gaps[0] if len(gaps) == 1 and gaps[0] != NOWHERE else None


def _behind(slot: int, lap: int, count: int, num: int) -> int:
    """The position so many descriptors further on."""
    return at((slot + count) % num, lap ^ (slot + count >= num))
