"""Litmus tests of single accesses, as rings make them: through typed views, with the fence of `vnet.linux.memory`."""

from __future__ import annotations

import os
import struct

import attrs

from litmus.shared import PAGE, Role, Shared, run_pair, seen_pages
from vnet.linux.memory import full_fence

__all__ = ["STORES", "StoreBuffer", "Torn", "store_buffer", "torn_index"]

SLOTS, LINE = 64, 64
"""Words that rounds use in turn, each in a cache line of its own, of so many bytes."""
SKEW = 7
"""Steps by which one side waits for the other, different in each round."""
MINE = 3
"""First page of the words: side 0's, then side 1's, then what each saw."""
PATTERNS = 0x00FF, 0xFF00, 0x1234, 0xEDCB
LOADS = 1000
"""Loads before a look at whether the other side has ended."""
STORES = "view", "pack_into", "two_bytes"
"""Ways of storing an index: the one that rings use, and two mutants."""


@attrs.frozen
class StoreBuffer:
    """Rounds in which each side stores its word, then loads the other's."""

    rounds: int
    forbidden: int
    """Rounds in which both loaded the old word, as if each load had passed the store before it."""
    together: int
    """Rounds in which both loaded the new word: both sides really ran at the same time."""


def store_buffer(rounds: int, *, fence: bool) -> StoreBuffer:
    """Run rounds with a fence between store and load, or without."""
    pages = MINE + 2 + seen_pages(rounds)
    [results, _] = run_pair("accesses:store_then_load", pages, {"rounds": rounds, "fence": int(fence)})
    return StoreBuffer(rounds, results[0], results[1])


def store_then_load(shared: Shared, role: Role) -> None:
    rounds, me = role.number("rounds"), role.me
    words = shared.bytes.cast("H")
    mine, theirs = PAGE * (MINE + me) // 2, PAGE * (MINE + 1 - me) // 2
    start = PAGE * (MINE + 2)
    seen = shared.seen(me, start, rounds)
    # Two loops, because a mutant must not have so much as a call where the fence was.
    loop = _fenced if role.number("fence") else _unfenced
    loop(shared, me, rounds, words, mine, theirs, seen)
    shared.meet(me, rounds + 1)
    if me == 0:
        shared.count_seen(start, rounds)


def _fenced(shared: Shared, me: int, rounds: int, words: memoryview, mine: int, theirs: int, seen: memoryview) -> None:
    for number in range(rounds):
        shared.meet(me, number + 1)
        for _ in range(number % SKEW if me else number // SKEW % SKEW):
            pass
        slot, word = number % SLOTS * LINE // 2, number // SLOTS + 1 & 0xFFFF
        own, other = mine + slot, theirs + slot
        words[own] = word
        full_fence()
        loaded = words[other]
        seen[number] = loaded == word


def _unfenced(
    shared: Shared, me: int, rounds: int, words: memoryview, mine: int, theirs: int, seen: memoryview
) -> None:
    for number in range(rounds):
        shared.meet(me, number + 1)
        for _ in range(number % SKEW if me else number // SKEW % SKEW):
            pass
        slot, word = number % SLOTS * LINE // 2, number // SLOTS + 1 & 0xFFFF
        own, other = mine + slot, theirs + slot
        words[own] = word
        loaded = words[other]
        seen[number] = loaded == word


@attrs.frozen
class Torn:
    """Stores of one side, and loads of the other meanwhile."""

    stores: int
    loads: int
    torn: int
    """Loads of a value that was never stored."""


def torn_index(stores: int, how: str = STORES[0]) -> Torn:
    """Store an index in one of `STORES` ways, while another process loads it."""
    results = run_pair("accesses:store_or_load", MINE + 1, {"stores": stores, "how": how})
    return Torn(stores, results[1][0], results[1][1])


def store_or_load(shared: Shared, role: Role) -> None:
    area = shared.bytes[PAGE * MINE : PAGE * (MINE + 1)]
    if role.me == 0:
        _store(shared, area, role.number("stores"), str(role.arguments["how"]))
    else:
        _load(shared, area.cast("H"))


def _store(shared: Shared, area: memoryview, stores: int, how: str) -> None:
    words = area.cast("H")
    words[0] = PATTERNS[0]
    shared.meet(0, 1)
    for number in range(stores):
        value = PATTERNS[number % len(PATTERNS)]
        if how == "view":
            words[0] = value
        elif how == "pack_into":
            struct.pack_into("<H", area, 0, value)
        else:
            area[0] = value & 0xFF
            area[1] = value >> 8
    shared.results(0)[0] = 1


def _load(shared: Shared, words: memoryview) -> None:
    end, results = shared.results(0), shared.results(1)
    good = frozenset(PATTERNS)
    shared.meet(1, 1)
    loads = torn = 0
    while not end[0]:
        for _ in range(LOADS):
            torn += words[0] not in good
        loads += LOADS
        if not loads % (100 * LOADS):
            os.sched_yield()
    results[0], results[1] = loads, torn
