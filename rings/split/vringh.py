"""The device's side of a split virtqueue: everything it reads may be a lie, and is read once.

Indices are this side's own: the used index is never read back from memory, and the available index
only ever says how much more there is to look at (VIRTIO 1.4 section 2.7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rings.chain import Buffers, Chain
from rings.errors import BadRing, LocalRingError, MemoryFault
from rings.layout import INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, WRITE, RingAddrs
from rings.memory import Addr, Memory
from rings.queue import QueueState
from rings.sides import IN_FLIGHT, MAX_CHAIN_BYTES, MAX_SEGMENT, DeviceSide
from rings.split.ring import AVAIL_RING, FLAGS, IDX, SplitRing
from rings.suppression import need_event

__all__ = ["SplitVringh"]

CHAINED, WRITABLE = (NEXT | INDIRECT) << 32, WRITE << 32
KIND = CHAINED | WRITABLE
"""Flags in a descriptor's second word, the lower half of which is a length."""


class SplitVringh(DeviceSide):
    """See `rings.queue.Vringh`. ``base`` is the index both rings start from (0 but for migration)."""

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
        """Raises BadRing or MemoryFault where no ring can be: then nothing is held."""
        self._ring = SplitRing(memory, num, addrs)
        super().__init__(memory, self._ring, num, indirect, table_max)
        self._mask = num - 1
        self._event_idx = event_idx
        self._desc = self._ring.desc
        self._avail = self._ring.avail
        self._used_elems = self._ring.used_elems
        self._last_avail = base  # next entry of the available ring to take
        self._seen = base  # how far the available ring is known to reach
        self._used = base  # next entry of the used ring to write
        self._published = base
        self._again: deque[int] = deque()  # heads to take before the available ring is looked at
        self._retaken: set[int] = set()  # those of them that are in flight

    def resume(self, again: Sequence[int]) -> None:
        """Go on where another device's side ended, before anything is taken: the ring starts at its used index.

        The chains that it took and did not give back, ``again`` by heads, are taken first: the available ring goes on
        behind as many entries. Raises BadRing for heads that can't be.
        """
        if len(set(again)) < len(again) or any(head >= self.num for head in again):
            raise BadRing(f"chains to be taken again that can't be: {again}")
        self._last_avail = self._seen = self._used + len(again) & 0xFFFF
        self._again = deque(again)

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains: list[Chain] = []
        if self._left <= 0:
            return chains
        if self._again:
            return self._retake(limit)
        first = self._last_avail
        if first == self._seen and not self._look():
            return chains
        # One batch is one trip through here: what every chain needs is looked up once, and each word is loaded once:
        # what is checked below is these copies.
        num, desc, taken, batch, view = self.num, self._desc, self._taken, self._batch, self._memory.view
        try:
            for head in self._entries(first, min(limit, self._seen - first & 0xFFFF)):
                if head >= num:
                    entry = first + len(chains) & 0xFFFF
                    raise BadRing(f"available entry {entry} names descriptor {head} of {num}")
                if taken[head] >= batch:
                    raise BadRing(f"descriptor {head} was made available again while in flight")
                addr, word = desc[2 * head], desc[2 * head + 1]
                if word & CHAINED:
                    chain = self._walk(head, addr, word)
                    if self._left <= 0:
                        taken[head] = IN_FLIGHT
                        chains.append(chain)
                        break
                elif size := word & MAX_SEGMENT:
                    writable = word & WRITABLE != 0
                    try:
                        segs = [view(addr, size, writable)]
                    except MemoryFault:
                        segs = self._memory.segments(addr, size, writable)
                    chain = (head, [], segs) if writable else (head, segs, [])
                else:
                    chain = head, [], []
                taken[head] = IN_FLIGHT
                chains.append(chain)
        except (BadRing, MemoryFault):
            # What came before it is good. It is met again, first, when the next one is asked for.
            if not chains:
                raise
        self._last_avail = first + len(chains) & 0xFFFF
        self._chains += len(chains)
        return chains

    def getbufs(self, limit: int, /) -> Buffers:
        heads: list[int] = []
        addrs: list[Addr] = []
        sizes: list[int] = []
        first = self._last_avail
        if self._again or (first == self._seen and not self._look()):
            return heads, sizes, []
        num, desc, taken, batch = self.num, self._desc, self._taken, self._batch
        for head in self._entries(first, min(limit, self._seen - first & 0xFFFF)):
            if head >= num or taken[head] >= batch:
                break
            addr, word = desc[2 * head], desc[2 * head + 1]
            size = word & MAX_SEGMENT
            if word & KIND != WRITABLE or not size:
                break
            taken[head] = IN_FLIGHT
            heads.append(head)
            addrs.append(addr)
            sizes.append(size)
        if not heads or not (views := self._lent(heads, addrs, sizes)):
            return [], [], []
        self._last_avail = first + len(heads) & 0xFFFF
        self._chains += len(heads)
        return heads, sizes, views

    def _entries(self, first: int, count: int) -> list[int]:
        """What the available ring says from there on, as often as that."""
        at = first & self._mask
        entries = list(self._avail[AVAIL_RING + at : AVAIL_RING + min(at + count, self.num)])
        if len(entries) < count:
            entries += self._avail[AVAIL_RING : AVAIL_RING + count - len(entries)]
        return entries

    def _retake(self, limit: int) -> list[Chain]:
        chains: list[Chain] = []
        while self._again and len(chains) < limit and not self.broken and self._left > 0:
            head = self._again[0]
            try:
                chains.append(self._walk(head, self._desc[2 * head], self._desc[2 * head + 1]))
            except (BadRing, MemoryFault):
                if not chains:
                    raise
                break
            self._again.popleft()
            self._taken[head] = IN_FLIGHT
            self._retaken.add(head)
            self._chains += 1
        return chains

    def _look(self) -> bool:
        """Whether the driver made more available; read at most once per batch."""
        if self.broken:
            return False
        seen = self._avail[IDX]
        if seen == self._last_avail:
            return False
        ahead = seen - self._last_avail & 0xFFFF
        # What was taken and not shown as used still occupies its descriptors.
        room = self.num - (self._last_avail - self._published & 0xFFFF)
        if ahead > room:
            raise BadRing(f"available index {seen} is {ahead} ahead of {self._last_avail}: more than {room}")
        self._seen = seen
        return True

    def _walk(self, head: int, addr: Addr, word: int) -> Chain:
        """Follow a chain of more than one descriptor, or one that leads into an indirect table."""
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
                    raise BadRing(f"chain {head}: an indirect table inside a table, or with NEXT set")
                table, limit = self._table(head, addr, length)
                nested = True
                longest = min(self._table_max, count + limit)
                index = 0
            else:
                count += 1
                if count > longest:
                    raise BadRing(f"chain {head}: loops, or is longer than {longest} descriptors")
                size += length
                if size > MAX_CHAIN_BYTES:
                    raise BadRing(f"chain {head}: more than 2^32 bytes")
                if flags & WRITE:
                    wrote = True
                elif wrote:
                    raise BadRing(f"chain {head}: a readable descriptor after a writable one")
                self._resolve(addr, length, wrote, writable if wrote else readable)
                if not flags & NEXT:
                    self._left -= count
                    return head, readable, writable
                index = word >> 48
                if index >= limit:
                    raise BadRing(f"chain {head}: next descriptor {index} of {limit}")
            addr, word = table[2 * index], table[2 * index + 1]

    def abandon(self, head: int, /) -> None:
        self._given_up(head)
        if head in self._retaken:
            self._retaken.remove(head)
            self._again.appendleft(head)
            return
        self._last_avail = self._last_avail - 1 & 0xFFFF
        if self.broken:
            self._seen = self._last_avail

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        taken, batch, mask = self._taken, self._batch, self._mask
        elems, used = self._used_elems, self._used
        for head, written in done:
            if taken[head] != IN_FLIGHT:
                raise LocalRingError(f"descriptor {head} was not taken")
            taken[head] = batch
            elems[used & mask] = head | written << 32
            used += 1
        self._used = used & 0xFFFF
        self._returned += len(done)
        if self._retaken:
            self._retaken.difference_update(head for head, _ in done)

    def publish(self) -> bool:
        old, new = self._published, self._used
        if old == new:
            return False
        used, avail = self._ring.used, self._avail
        used[IDX] = new
        self._published = new
        # Pairs with the fence in the driver's enable_cb: it sees our index, or we see its event.
        self._memory.fence()
        if self._event_idx:
            wanted = need_event(avail[self._ring.used_event], new, old)
        else:
            wanted = not avail[FLAGS] & NO_INTERRUPT
        return self._told(wanted)

    def notify_enable(self) -> bool:
        if self.broken:
            return False
        # From where this side looked to: what it saw and gave back again was not enough for it.
        if self._event_idx:
            self._ring.used[self._ring.avail_event] = self._seen
        else:
            self._ring.used[FLAGS] = 0
        # Pairs with the fence in the driver's publish.
        self._memory.fence()
        return self._left <= 0 or bool(self._avail[IDX] != self._seen)

    def notify_disable(self) -> None:
        # With EVENT_IDX the event that was passed already says the same until 65536 entries later.
        if not self._event_idx:
            self._ring.used[FLAGS] = NO_NOTIFY

    def latch(self) -> None:
        super().latch()
        self._seen = self._last_avail

    def state(self) -> QueueState:
        return QueueState(self.num, self._last_avail, self._used, self._chains - self._returned, self.broken)
