"""The inflight log of a packed ring: a copy of each descriptor taken, because the driver reuses those in the ring.

Each chain is a linked list of entries, and so are the free entries. The links are kept privately and only written to
the log, for the next device to read. Fields that have to change together (the head of the free list and its value at
the last commit; used index and wrap counters) share a 64-bit word, so that one store changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rings.errors import BadRing
from rings.observers.inflight import VERSION, LogMemory, log_size
from rings.packed.ring import FIRST_LAP, at, available
from rings.packed.vringh import PackedVringh, Words

__all__ = ["PackedLog", "packed_log_size"]

HEADER, ENTRY = 32, 32
packed_log_size = partial(log_size, HEADER, ENTRY)
# Positions in the 64-bit view of the header: version, entries, free head, old free head, 16 bits each; used index and
# old used index, 16 bits each, used wrap counter and the old one, 8 bits each.
_HEADS, _PLACES = 1, 2
# In an entry: byte 0 and the 16-bit fields behind it, then 64-bit words.
_NEXT, _LAST, _NUM = 1, 2, 3
_COUNTER, _ID_FLAGS_LENGTH, _ADDR = 1, 2, 3


class PackedLog(LogMemory[PackedVringh]):
    """See `rings.observers.inflight.InflightLog`. A new log starts at the ring's initial position."""

    def __init__(self, ring: PackedVringh, memory: memoryview, entries: int) -> None:
        super().__init__(ring, memory, entries)
        self._next = list(range(1, entries + 1))  # the last one ends the list
        self._free = 0
        self._chains: dict[int, tuple[int, int]] = {}  # by buffer id: first and last entry
        self._used = ring.state().used  # at the last commit

    def resume(self) -> Sequence[int]:
        version, entries = self._words[4], self._words[5]
        if not version:
            for entry, following in enumerate(self._next):
                self._link(entry, following)
            self._place(self._used, self._used)
            self._heads(0, 0)
            return ()
        if version != VERSION or entries != self._entries:
            raise BadRing(f"an inflight log of version {version} for {entries} descriptors, not {self._entries}")
        self._settle()
        chains = self._read()
        self._ring.resume(self._used, chains)
        return list(self._chains)

    def _settle(self) -> None:
        """Commit the last batch if its first descriptor is published as used, else roll it back."""
        free, old_free, slot, old_slot = self._words[6:10]
        lap, old_lap = self._bytes[20] & 1, self._bytes[21] & 1
        if max(slot, old_slot) >= self._ring.num:
            raise BadRing(f"an inflight log at {slot} and {old_slot} of {self._ring.num} descriptors")
        shown = (slot, lap) != (old_slot, old_lap) and self._ring.hands(old_slot) != available(old_lap)
        self._free, self._used = (free, at(slot, lap)) if shown else (old_free, at(old_slot, old_lap))
        self._heads(self._free, self._free)
        self._place(self._used, self._used)

    def _read(self) -> list[Words]:
        """Read links and chains from the log. Returns the descriptors of each chain, in the order of taking.

        Raises BadRing if the lists overlap or do not contain every entry.
        """
        words, seen = self._words, bytearray(self._entries)
        self._next = [words[(HEADER + ENTRY * entry) // 2 + _NEXT] for entry in range(self._entries)]
        for entry in self._run(self._free, self._entries, seen):
            self._bytes[HEADER + ENTRY * entry] = 0
        in_flight: list[tuple[int, int, int, Words]] = []
        for head in range(self._entries):
            base = HEADER + ENTRY * head
            if self._bytes[base]:
                run = self._run(head, words[base // 2 + _NUM], seen)
                if not run or len(run) != words[base // 2 + _NUM] or run[-1] != words[base // 2 + _LAST]:
                    raise BadRing(f"an inflight log whose chain at entry {head} does not end where it should")
                chain = [self._descriptor(entry) for entry in run]
                in_flight.append((self._quads[base // 8 + _COUNTER], head, run[-1], chain))
        if sum(seen) < self._entries:
            raise BadRing("an inflight log with entries that are neither free nor in flight")
        in_flight.sort()
        self._chains = {chain[-1][1] >> 32 & 0xFFFF: (head, last) for _, head, last, chain in in_flight}
        self._counter = 1 + max((counter for counter, _, _, _ in in_flight), default=0) & (1 << 63) - 1
        return [chain for _, _, _, chain in in_flight]

    def _run(self, entry: int, limit: int, seen: bytearray) -> list[int]:
        """Return up to ``limit`` entries of the list from ``entry`` on. Raises BadRing for an entry seen before."""
        run: list[int] = []
        while entry < self._entries and len(run) < limit:
            if seen[entry]:
                raise BadRing(f"an inflight log whose lists lead to entry {entry} twice")
            seen[entry] = 1
            run.append(entry)
            entry = self._next[entry]
        return run

    def record(self, heads: Sequence[int]) -> None:
        for head, chain in zip(heads, self._ring.descriptors(heads), strict=True):
            first = last = entry = self._free
            for addr, word in chain:
                quad = (HEADER + ENTRY * entry) // 8
                self._quads[quad + _ADDR] = addr
                self._quads[quad + _ID_FLAGS_LENGTH] = word >> 32 | (word & 0xFFFF_FFFF) << 32
                last, entry = entry, self._next[entry]
            base = HEADER + ENTRY * first
            self._words[base // 2 + _LAST] = last
            self._words[base // 2 + _NUM] = len(chain)
            self._quads[base // 8 + _COUNTER] = self._counter
            self._bytes[base] = 1
            self._counter += 1
            self._chains[head] = first, last
            self._free = entry
            self._heads(entry, entry)

    def cancel(self, head: int) -> None:
        first, last = self._chains.pop(head)
        self._link(last, self._free)
        self._free = first
        self._heads(first, first)
        self._bytes[HEADER + ENTRY * first] = 0

    def begin_publish(self, heads: Sequence[int]) -> None:
        free = self._free
        for head in heads:
            first, last = self._chains[head]
            self._link(last, free)
            free = first
        self._heads(free, self._free)
        self._place(self._ring.state().used, self._used)
        self._free = free

    def end_publish(self, heads: Sequence[int]) -> None:
        for head in heads:
            first, _ = self._chains.pop(head)
            self._bytes[HEADER + ENTRY * first] = 0
        self._used = self._ring.state().used
        self._heads(self._free, self._free)
        self._place(self._used, self._used)

    def _descriptor(self, entry: int) -> tuple[int, int]:
        """Return the two words of the logged descriptor."""
        quad = (HEADER + ENTRY * entry) // 8
        word = self._quads[quad + _ID_FLAGS_LENGTH]
        return self._quads[quad + _ADDR], word >> 32 | (word & 0xFFFF_FFFF) << 32

    def _link(self, entry: int, following: int) -> None:
        self._next[entry] = following
        self._words[(HEADER + ENTRY * entry) // 2 + _NEXT] = following

    def _heads(self, free: int, old: int) -> None:
        self._quads[_HEADS] = VERSION | self._entries << 16 | free << 32 | old << 48

    def _place(self, used: int, old: int) -> None:
        slots = used % FIRST_LAP | old % FIRST_LAP << 16
        self._quads[_PLACES] = slots | used // FIRST_LAP << 32 | old // FIRST_LAP << 40
