"""Position at which a new device resumes a packed ring, derived from the descriptors.

A packed ring has no index that a new device could read, and the front end may know only the initial position. But the
driver writes every descriptor once in each lap, so the flags show which one was used last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rings.layout import NEXT
from rings.packed.ring import FIRST_LAP, HANDS, at, available, used

__all__ = ["used_next"]

NOWHERE = -1


def used_next(words: Sequence[int], hint: int) -> int:
    """Return the position that the device uses next, or ``hint`` if the descriptors do not determine it.

    ``words`` are the second words of all descriptors. The position is behind the last used chain, or at the first chain
    of a batch if the device died before it published that one. A used chain of several descriptors rewrites only its
    first; the others still look available. Only whether such a rest follows the last chain is decided by ``hint``.
    """
    num = len(words)
    flags = [word >> 48 for word in words]
    if _is_unused(flags, hint):
        return hint
    laps = [(slot, word & HANDS == HANDS) for slot, word in enumerate(flags) if word & HANDS in (0, HANDS)]
    changes = [i for i in range(1, len(laps)) if laps[i][1] != laps[i - 1][1]]
    if len(changes) > 1:
        return hint  # not the state of a valid ring
    if not laps:
        # All descriptors are available: those of the later lap come first in the ring.
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
    if hint in places:
        return hint
    gap = _gap(words, laps[turn:] + laps[:turn])
    return places[0] if gap is None else gap


def _is_unused(flags: Sequence[int], position: int) -> bool:
    """Return whether no device used any descriptor from ``position`` on.

    Then each descriptor from there on is available in this lap or was used in the one before. This includes a batch
    that the driver has not published: its first descriptor is unchanged, the others are available.
    """
    slot, lap = position % FIRST_LAP, position // FIRST_LAP
    return slot < len(flags) and all(
        word & HANDS in ((available(lap), used(lap ^ 1)) if place >= slot else (available(lap ^ 1), used(lap)))
        for place, word in enumerate(flags)
    )


def _gap(words: Sequence[int], order: Sequence[tuple[int, bool]]) -> int | None:
    """Return the only position between used chains, in order of use, where a chain is still available, else None."""
    num = len(words)
    gaps: list[int] = []
    oldest, lap = order[0]
    before = at((oldest - 1) % num, lap ^ (oldest == 0))
    if words[before % FIRST_LAP] >> 48 & HANDS == available(before // FIRST_LAP):
        gaps.append(before)  # if it had been used, the driver would have made another one available in its place
    for (slot, lap), (following, _) in pairwise(order):
        place = _behind(slot, lap, 1, num)
        if place % FIRST_LAP != following:
            last = words[following - 1]
            # The remaining descriptors of a used chain still have its buffer id.
            stale = last >> 32 & 0xFFFF == words[slot] >> 32 & 0xFFFF
            gaps.append(NOWHERE if stale else place)
    return gaps[0] if len(gaps) == 1 and gaps[0] != NOWHERE else None


def _behind(slot: int, lap: int, count: int, num: int) -> int:
    """Return the position ``count`` descriptors further on."""
    return at((slot + count) % num, lap ^ (slot + count >= num))
