"""The device's side of a split virtqueue: it trusts nothing in the ring and reads each field once.

Indices are kept privately: the used index is never read back from memory, and the available index
only bounds how many entries to read (VIRTIO 1.4 section 2.7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rings.chain import Buffers, Chain
from rings.errors import BadRing, LocalRingError, MemoryFault, named
from rings.layout import INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, WRITE, RingAddrs
from rings.memory import Addr, Memory
from rings.queue import QueueState
from rings.sides import IN_FLIGHT, MAX_CHAIN_BYTES, MAX_SEGMENT, DeviceSide
from rings.split.ring import AVAIL_RING, FLAGS, IDX, SplitRing
from rings.suppression import need_event

__all__ = ["SplitVringh"]

CHAINED, WRITABLE = (NEXT | INDIRECT) << 32, WRITE << 32
KIND = CHAINED | WRITABLE
"""Flags in a descriptor's second word, whose lower half is the length."""


class SplitVringh(DeviceSide):
    """See `rings.queue.Vringh`. ``base`` is the initial index of both rings (0 except after a migration)."""

    TABLE_SECTION = "2.7.5.3.1"

    def __init__(
        self,
        memory: Memory,
        num: int,
        addrs: RingAddrs,
        *,
        event_idx: bool,
        indirect: bool,
        base: int = 0,
        table_max: int = 0,
    ) -> None:
        """Pin the areas. On BadRing or MemoryFault, releases everything."""
        self._ring = SplitRing(memory, num, addrs)
        super().__init__(memory, self._ring, num, indirect, table_max)
        self._mask = num - 1
        self._event_idx = event_idx
        self._desc = self._ring.desc
        self._avail = self._ring.avail
        self._used_elems = self._ring.used_elems
        self._last_avail = base  # next entry of the available ring to take
        self._avail_end = base  # available index last read
        self._used = base  # next entry of the used ring to write
        self._published = base
        self._backlog: deque[int] = deque()  # heads from another device's side, to take before the available ring
        self._from_backlog: set[int] = set()  # heads taken from the backlog and in flight

    def resume(self, backlog: Sequence[int]) -> None:
        """Continue the work of another device's side, before any chain is taken: the ring starts at its used index.

        Its chains in flight, ``backlog`` by heads, are taken first; the available ring continues behind as many
        entries. Raises BadRing for invalid heads.
        """
        if len(set(backlog)) < len(backlog) or any(head >= self.num for head in backlog):
            raise BadRing(f"invalid heads to resume with: {named(backlog)}")
        self._last_avail = self._avail_end = self._used + len(backlog) & 0xFFFF
        self._backlog = deque(backlog)

    def in_flight(self) -> list[int]:
        return [*super().in_flight(), *self._backlog]

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains: list[Chain] = []
        if self._budget <= 0:
            return chains
        if self._backlog:
            return self._take_backlog(limit)
        first = self._last_avail
        if first == self._avail_end and not self._fetch_index():
            return chains
        # One call handles a batch: attributes are looked up once, each word is loaded once, and the checks below use
        # these copies.
        num, desc, states, batch, view = self.num, self._desc, self._states, self._batch, self.memory.view
        heads = self._entries(first, min(limit, self._avail_end - first & 0xFFFF))
        try:
            for head in heads:
                if head >= num:
                    entry = first + len(chains) & 0xFFFF
                    raise BadRing(f"available entry {entry} names descriptor {head} of {num}", "2.7.6")
                if states[head] >= batch:
                    raise BadRing(f"descriptor {head} was made available again while in flight", "2.7.13.1")
                at = 2 * head
                addr, word = desc[at], desc[at + 1]
                if word & CHAINED:
                    chain = self._walk(head, addr, word)
                    if self._budget <= 0:
                        states[head] = IN_FLIGHT
                        chains.append(chain)
                        break
                elif size := word & MAX_SEGMENT:
                    writable = word & WRITABLE != 0
                    try:
                        segs = [view(addr, size, writable)]
                    except MemoryFault:
                        segs = self.memory.segments(addr, size, writable)
                    chain = (head, [], segs) if writable else (head, segs, [])
                else:
                    chain = head, [], []
                states[head] = IN_FLIGHT
                chains.append(chain)
        except (BadRing, MemoryFault):
            # Return the good chains before it. The next call meets the bad one first and raises.
            if not chains:
                raise
        count = len(chains)
        self._taken.extend(heads[:count])
        self._last_avail = first + count & 0xFFFF
        self._chains += count
        return chains

    def getbufs(self, limit: int, /) -> Buffers:
        heads: list[int] = []
        addrs: list[Addr] = []
        sizes: list[int] = []
        first = self._last_avail
        if self._backlog or (first == self._avail_end and not self._fetch_index()):
            return heads, sizes, []
        num, desc, states, batch = self.num, self._desc, self._states, self._batch
        for head in self._entries(first, min(limit, self._avail_end - first & 0xFFFF)):
            if head >= num or states[head] >= batch:
                break
            at = 2 * head
            addr, word = desc[at], desc[at + 1]
            size = word & MAX_SEGMENT
            if word & KIND != WRITABLE or not size:
                break
            states[head] = IN_FLIGHT
            heads.append(head)
            addrs.append(addr)
            sizes.append(size)
        if not heads or not (views := self._writable_views(heads, addrs, sizes)):
            return [], [], []
        self._taken.extend(heads)
        self._last_avail = first + len(heads) & 0xFFFF
        self._chains += len(heads)
        return heads, sizes, views

    def _entries(self, first: int, count: int) -> list[int]:
        """Return ``count`` entries of the available ring from index ``first`` on."""
        at = first & self._mask
        entries = list(self._avail[AVAIL_RING + at : AVAIL_RING + min(at + count, self.num)])
        if len(entries) < count:
            entries += self._avail[AVAIL_RING : AVAIL_RING + count - len(entries)]
        return entries

    def _take_backlog(self, limit: int) -> list[Chain]:
        chains: list[Chain] = []
        while self._backlog and len(chains) < limit and not self.broken and self._budget > 0:
            head = self._backlog[0]
            try:
                chains.append(self._walk(head, self._desc[2 * head], self._desc[2 * head + 1]))
            except (BadRing, MemoryFault):
                if not chains:
                    raise
                break
            self._backlog.popleft()
            self._states[head] = IN_FLIGHT
            self._from_backlog.add(head)
            self._taken.append(head)
            self._chains += 1
        return chains

    def _fetch_index(self) -> bool:
        """Read the available index, at most once per batch. Returns whether it advanced."""
        if self.broken:
            return False
        index = self._avail[IDX]
        if index == self._last_avail:
            return False
        ahead = index - self._last_avail & 0xFFFF
        # Chains taken and not published as used still occupy descriptors.
        room = self.num - (self._last_avail - self._published & 0xFFFF)
        if ahead > room:
            raise BadRing(f"available index {index} is {ahead} ahead of {self._last_avail}: more than {room}", "2.7.6")
        self._avail_end = index
        return True

    def _walk(self, head: int, addr: Addr, word: int) -> Chain:
        """Return a chain of several descriptors, or one in an indirect table."""
        table = self._desc
        limit, longest = self.num, self._longest
        nested = wrote = False
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        count = size = 0
        while True:
            flags = word >> 32
            length = word & MAX_SEGMENT
            if flags & INDIRECT:
                if nested or flags & NEXT:
                    reason = "an indirect table inside a table, or with NEXT set"
                    raise BadRing(f"chain {head}: {reason}", self.TABLE_SECTION)
                table, limit = self._table(head, addr, length)
                nested = True
                longest = min(self._table_max, count + limit)
                index = 0
            else:
                count += 1
                if count > longest:
                    raise BadRing(f"chain {head}: loops, or is longer than {longest} descriptors", "2.7.5.2")
                size += length
                if size > MAX_CHAIN_BYTES:
                    raise BadRing(f"chain {head}: more than 2^32 bytes", "2.7.5.2")
                if flags & WRITE:
                    wrote = True
                elif wrote:
                    raise BadRing(f"chain {head}: a readable descriptor after a writable one", "2.7.4.2")
                self._resolve(addr, length, wrote, writable if wrote else readable)
                if not flags & NEXT:
                    self._budget -= count
                    return head, readable, writable
                index = word >> 48
                if index >= limit:
                    raise BadRing(f"chain {head}: next descriptor {index} of {limit}", "2.7.5")
            addr, word = table[2 * index], table[2 * index + 1]

    def abandon(self, count: int, /) -> list[int]:
        if not count:
            return []
        heads = self._untake(count)
        if self._from_backlog:
            for head in heads:
                if head in self._from_backlog:
                    self._from_backlog.remove(head)
                    self._backlog.appendleft(head)
                    count -= 1
        self._last_avail = self._last_avail - count & 0xFFFF
        if self.broken:
            self._avail_end = self._last_avail
        return heads

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        states, batch, mask = self._states, self._batch, self._mask
        elems, used = self._used_elems, self._used
        for head, written in done:
            if states[head] != IN_FLIGHT:
                raise LocalRingError(f"descriptor {head} was not taken")
            states[head] = batch
            elems[used & mask] = head | written << 32
            used += 1
        self._used = used & 0xFFFF
        self._returned += len(done)
        if self._from_backlog:
            self._from_backlog.difference_update(head for head, _ in done)

    def complete_batch(self, heads: Sequence[int], /) -> None:
        self._use_batch(heads)
        self._used_elems[self._used & self._mask] = heads[-1]
        self._used = self._used + len(heads) & 0xFFFF
        if self._from_backlog:
            self._from_backlog.difference_update(heads)

    def publish(self) -> bool:
        old, new = self._published, self._used
        if old == new:
            return False
        self._ring.used[IDX] = new
        self._published = new
        return self._wants_call(new, old)

    def _wants_call(self, new: int, old: int) -> bool:
        """Return whether the driver has to be called for the used entries from ``old`` to ``new``, and count that."""
        avail = self._avail
        # Pairs with the fence in the driver's enable_cb: the driver sees our index, or we see its event.
        self.memory.fence()
        if self._event_idx:
            wanted = need_event(avail[self._ring.used_event], new, old)
        else:
            wanted = not avail[FLAGS] & NO_INTERRUPT
        return self._count_publication(wanted)

    def show(self) -> bool:
        old, new = self._published, self._used
        if old != new:
            self._ring.used[IDX] = self._published = new
            self._shown = min(self._shown + (new - old & 0xFFFF), 0xFFFF)
            self._batch += 1
        return self._shown > 0

    def decide(self) -> bool:
        count, self._shown = self._shown, 0
        return count > 0 and self._wants_call(self._published, self._published - count)

    def notify_enable(self) -> bool:
        if self.broken:
            return False
        # Compare with the index read, not with the chains taken: abandoned chains would make the device spin.
        if self._event_idx:
            self._ring.used[self._ring.avail_event] = self._avail_end
        else:
            self._ring.used[FLAGS] = 0
        # Pairs with the fence in the driver's publish.
        self.memory.fence()
        return self._budget <= 0 or bool(self._avail[IDX] != self._avail_end)

    def notify_disable(self) -> None:
        # With EVENT_IDX the event already passed suppresses kicks for the next 65536 entries.
        if not self._event_idx:
            self._ring.used[FLAGS] = NO_NOTIFY

    def latch(self) -> None:
        super().latch()
        self._avail_end = self._last_avail

    def state(self) -> QueueState:
        return QueueState(self.num, self._last_avail, self._used, self._chains - self._returned, self.broken)
