"""The device's side of a packed virtqueue: it trusts nothing in the ring and reads each field once.

Positions are kept privately. The device owns a descriptor from the time when its bits make it available in this lap
until the batch that uses it is published (VIRTIO 1.4 section 2.8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rings.chain import Buffers, Chain
from rings.errors import BadRing, LocalRingError, MemoryFault, named
from rings.layout import INDIRECT, NEXT, WRITE, RingAddrs
from rings.memory import Addr, Memory
from rings.packed.ring import DESC, DISABLE, ENABLE, FIRST_LAP, HANDS, PackedRing, at, available, used
from rings.queue import QueueState
from rings.sides import IN_FLIGHT, MAX_CHAIN_BYTES, MAX_SEGMENT, DeviceSide
from rings.suppression import need_position

__all__ = ["PackedVringh", "Words"]

Words = Sequence[tuple[int, int]]
"""Descriptors of a chain, each as two words: address, then length, buffer id and flags."""
CHAINED = NEXT | INDIRECT
KIND = HANDS | CHAINED | WRITE
NOWHERE = -1


class PackedVringh(DeviceSide):
    """See `rings.queue.Vringh`. A chain's head is its buffer id.

    ``base`` is the initial position of both sides: the descriptor's number, and the wrap counter in bit 15.
    """

    TABLE_SECTION = "2.8.19"

    def __init__(
        self,
        memory: Memory,
        num: int,
        addrs: RingAddrs,
        *,
        event_idx: bool,
        indirect: bool,
        base: int = FIRST_LAP,
        table_max: int = 0,
    ) -> None:
        """Pin the areas. On BadRing or MemoryFault, releases everything."""
        self._ring = PackedRing(memory, num, addrs)
        if base % FIRST_LAP >= num:
            self._ring.close()
            raise BadRing(f"a queue of {num} descriptors can't start at {base % FIRST_LAP}")
        super().__init__(memory, self._ring, num, indirect, table_max)
        self._event_idx = event_idx
        self._desc = self._ring.desc
        self._counts = [0] * num  # by buffer id: ring descriptors of the chain
        self._slot, self._lap = base % FIRST_LAP, base // FIRST_LAP & 1  # next descriptor to take
        self._ahead = 0  # abandoned descriptors, which are next to take
        self._in_flight = 0  # descriptors taken and not published as used
        self._used_slot, self._used_lap = self._slot, self._lap  # next descriptor to mark as used
        self._first_slot, self._first_word = NOWHERE, 0  # first descriptor of the unpublished batch, and its word
        self._unpublished = 0  # descriptors completed and not published
        self._backlog: deque[Words] = deque()  # chains from another device's side, to take before the ring
        self._from_backlog: dict[int, Words] = {}  # chains taken from the backlog and in flight, by buffer id

    def resume(self, position: int, backlog: Sequence[Words]) -> None:
        """Continue the work of another device's side, before any chain is taken: ``position`` is used next.

        Its chains in flight, ``backlog``, are taken first; the driver's next descriptor is behind as many as they
        have. Raises BadRing for an invalid position or invalid chains.
        """
        num, desc, slot, lap = self.num, self._desc, position % FIRST_LAP, position // FIRST_LAP & 1
        counts = {words[-1][1] >> 32 & 0xFFFF: len(words) for words in backlog}
        in_flight = sum(map(len, backlog))
        if slot >= num or len(counts) < len(backlog) or in_flight > num or any(ident >= num for ident in counts):
            raise BadRing(f"a queue of {num} descriptors can't resume at {slot} with buffers {named(list(counts))}")
        self._used_slot, self._used_lap = slot, lap
        for ident, count in counts.items():
            self._counts[ident] = count
        for step in range(num):
            if step == in_flight:
                self._slot, self._lap = slot, lap
            # A device that died within `publish` may have marked these as used, where the driver has not read yet.
            word = desc[2 * slot + 1]
            if word >> 48 & HANDS == used(lap):
                desc[2 * slot + 1] = word & ~(HANDS << 48) | available(lap) << 48
            slot += 1
            if slot == num:
                slot, lap = 0, lap ^ 1
        if in_flight == num:
            self._slot, self._lap = slot, lap
        self._in_flight = in_flight
        self._backlog = deque(backlog)

    def in_flight(self) -> list[int]:
        return [*super().in_flight(), *(words[-1][1] >> 32 & 0xFFFF for words in self._backlog)]

    def hands(self, slot: int) -> int:
        """Return the ownership bits of a descriptor, see `HANDS`."""
        return int(self._desc[2 * slot + 1] >> 48 & HANDS)

    def descriptors(self, heads: Sequence[int]) -> list[Words]:
        """Return the ring descriptors of all chains ``heads`` that the last `getdescs` took from the ring."""
        desc, num = self._desc, self.num
        slot = self._slot - sum(self._counts[head] for head in heads)
        chains: list[Words] = []
        for head in heads:
            slots = [at % num for at in range(slot, slot + self._counts[head])]
            chains.append([(desc[2 * at], desc[2 * at + 1]) for at in slots])
            slot += len(slots)
        return chains

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains: list[Chain] = []
        if self.broken or self._budget <= 0:
            return chains
        if self._backlog:
            return self._take_backlog(limit)
        # One call handles a batch: attributes are looked up once.
        num, desc, slot, lap, in_flight = self.num, self._desc, self._slot, self._lap, self._in_flight
        states, counts, batch, view = self._states, self._counts, self._batch, self.memory.view
        want, paused = available(lap), False
        try:
            for _ in range(limit):
                # Loaded once, before the address whose validity it states; the checks below use this copy.
                word = desc[2 * slot + 1]
                flags = word >> 48
                if flags & HANDS != want:
                    break
                if in_flight >= num:
                    raise BadRing(f"descriptor {slot} was made available again while in flight")
                if flags & CHAINED:
                    ident, count, chain = self._walk(slot, word, want, min(num - in_flight, self._longest))
                    paused = self._budget <= 0
                else:
                    ident, count = word >> 32 & 0xFFFF, 1
                    if size := word & MAX_SEGMENT:
                        addr, writable = desc[2 * slot], flags & WRITE != 0
                        try:
                            segs = [view(addr, size, writable)]
                        except MemoryFault:
                            segs = self.memory.segments(addr, size, writable)
                        chain = (ident, [], segs) if writable else (ident, segs, [])
                    else:
                        chain = ident, [], []
                if ident >= num:
                    raise BadRing(f"descriptor {slot} names buffer {ident} of {num}")
                if states[ident] >= batch:
                    raise BadRing(f"buffer {ident} was made available again while in flight")
                states[ident] = IN_FLIGHT
                counts[ident] = count
                in_flight += count
                slot += count
                if slot >= num:
                    slot, lap, want = slot - num, lap ^ 1, want ^ HANDS
                chains.append(chain)
                if paused:
                    break
        except (BadRing, MemoryFault):
            # Return the good chains before it. The next call meets the bad one first and raises.
            if not chains:
                raise
        if chains:
            self._taken.extend([chain[0] for chain in chains])
            self._advance(slot, lap, in_flight, len(chains))
        return chains

    def getbufs(self, limit: int, /) -> Buffers:
        idents: list[int] = []
        addrs: list[Addr] = []
        sizes: list[int] = []
        if self.broken or self._backlog:
            return idents, sizes, []
        num, desc, slot, lap, in_flight = self.num, self._desc, self._slot, self._lap, self._in_flight
        states, counts, batch = self._states, self._counts, self._batch
        want = available(lap) | WRITE
        for _ in range(limit):
            # Loaded once, as in `getdescs`.
            word = desc[2 * slot + 1]
            ident, size = word >> 32 & 0xFFFF, word & MAX_SEGMENT
            if word >> 48 & KIND != want or in_flight >= num or ident >= num or states[ident] >= batch or not size:
                break
            addrs.append(desc[2 * slot])
            states[ident] = IN_FLIGHT
            counts[ident] = 1
            idents.append(ident)
            sizes.append(size)
            in_flight += 1
            slot += 1
            if slot == num:
                slot, lap, want = 0, lap ^ 1, want ^ HANDS
        if not idents or not (views := self._writable_views(idents, addrs, sizes)):
            return [], [], []
        self._taken.extend(idents)
        self._advance(slot, lap, in_flight, len(idents))
        return idents, sizes, views

    def _advance(self, slot: int, lap: int, in_flight: int, chains: int) -> None:
        """Count ``chains`` as taken and move to the descriptor behind them."""
        if self._ahead:
            self._ahead = max(0, self._ahead - (in_flight - self._in_flight))
        self._slot, self._lap, self._in_flight = slot, lap, in_flight
        self._chains += chains

    def _walk(self, slot: int, word: int, want: int, room: int) -> tuple[int, int, Chain]:
        """Return buffer id, number of ring descriptors and chain of a list or of an indirect descriptor."""
        first = slot
        words = [(self._desc[2 * slot], word)]
        while word >> 48 & CHAINED == NEXT:
            if len(words) == room:
                raise BadRing(f"descriptor {first}: a list longer than the {room} descriptors there are", "2.8.17")
            slot += 1
            if slot == self.num:
                slot, want = 0, want ^ HANDS
            word = self._desc[2 * slot + 1]
            if word >> 48 & HANDS != want:
                raise BadRing(f"descriptor {first}: {slot} in its list was not made available")
            words.append((self._desc[2 * slot], word))
        ident = word >> 32 & 0xFFFF
        return ident, len(words), (ident, *self._views(first, words))

    def _take_backlog(self, limit: int) -> list[Chain]:
        chains: list[Chain] = []
        while self._backlog and len(chains) < limit and self._budget > 0:
            words = self._backlog[0]
            ident = words[-1][1] >> 32 & 0xFFFF
            try:
                chains.append((ident, *self._views(ident, words)))
            except (BadRing, MemoryFault):
                if not chains:
                    raise
                break
            self._from_backlog[ident] = self._backlog.popleft()
            self._states[ident] = IN_FLIGHT
            self._taken.append(ident)
            self._chains += 1
        return chains

    def _views(self, first: int, words: Words) -> tuple[list[memoryview], list[memoryview]]:
        """Return the readable and writable views of a chain with these ring descriptors."""
        table = [word for _, word in words if word >> 48 & INDIRECT]
        if table and (len(words) > 1 or table[0] >> 48 & NEXT):
            raise BadRing(f"descriptor {first}: an indirect table in a list", "2.8.7")
        if table:
            # In a table's entries, ignore all flags but WRITE (section 2.8.7).
            entries, count = self._table(first, Addr(words[0][0]), table[0] & MAX_SEGMENT)
            words = [(entries[2 * entry], entries[2 * entry + 1]) for entry in range(count)]
        self._budget -= len(words)
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        if sum(word & MAX_SEGMENT for _, word in words) > MAX_CHAIN_BYTES:
            raise BadRing(f"descriptor {first}: more than 2^32 bytes", "2.8.5")
        wrote = False
        for addr, word in words:
            write = bool(word >> 48 & WRITE)
            if wrote and not write:
                raise BadRing(f"descriptor {first}: a readable buffer after a writable one", "2.8.17")
            wrote = write
            self._resolve(Addr(addr), word & MAX_SEGMENT, wrote, writable if wrote else readable)
        return readable, writable

    def abandon(self, count: int, /) -> list[int]:
        if not count:
            return []
        heads = self._untake(count)
        descs = 0
        for head in heads:
            if head in self._from_backlog:
                self._backlog.appendleft(self._from_backlog.pop(head))
            else:
                descs += self._counts[head]
        self._in_flight -= descs
        self._ahead += descs
        self._slot -= descs
        if self._slot < 0:
            self._slot, self._lap = self._slot + self.num, self._lap ^ 1
        return heads

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        states, counts, batch = self._states, self._counts, self._batch
        desc, num, slot, lap, unpublished = self._desc, self.num, self._used_slot, self._used_lap, self._unpublished
        flags = used(lap) << 48
        first_slot = slot if self._first_slot == NOWHERE else self._first_slot
        try:
            for ident, written in done:
                if states[ident] != IN_FLIGHT:
                    raise LocalRingError(f"descriptor {ident} was not taken")
                states[ident] = batch
                word = written | ident << 32 | flags | (WRITE << 48 if written else 0)
                if slot != first_slot:
                    desc[2 * slot + 1] = word
                else:
                    self._first_slot, self._first_word = slot, word
                count = counts[ident]
                unpublished += count
                slot += count
                if slot >= num:
                    slot, lap, flags = slot - num, lap ^ 1, used(lap ^ 1) << 48
        finally:
            self._used_slot, self._used_lap, self._unpublished = slot, lap, unpublished
        self._returned += len(done)
        if self._from_backlog:
            for ident, _ in done:
                self._from_backlog.pop(ident, None)

    def complete_batch(self, heads: Sequence[int], /) -> None:
        self._use_batch(heads)
        slot, lap, descs = self._used_slot, self._used_lap, sum([self._counts[ident] for ident in heads])
        word = heads[-1] << 32 | used(lap) << 48
        if self._first_slot == NOWHERE:
            self._first_slot, self._first_word = slot, word
        else:
            self._desc[2 * slot + 1] = word
        slot += descs
        if slot >= self.num:
            slot, lap = slot - self.num, lap ^ 1
        self._used_slot, self._used_lap = slot, lap
        self._unpublished += descs
        if self._from_backlog:
            for ident in heads:
                self._from_backlog.pop(ident, None)

    def publish(self) -> bool:
        moved = self._show()
        return moved > 0 and self._wants_call(moved)

    def _show(self) -> int:
        """Show the completed chains. Returns their descriptors."""
        if self._first_slot == NOWHERE:
            return 0
        self._desc[2 * self._first_slot + 1] = self._first_word
        moved, self._unpublished = self._unpublished, 0
        self._first_slot = NOWHERE
        self._in_flight -= moved
        return moved

    def _wants_call(self, moved: int) -> bool:
        """Return whether the driver has to be called for the last ``moved`` used descriptors, and count that."""
        # Pairs with the fence in the driver's enable_cb: the driver sees our descriptor, or we see its event.
        self.memory.fence()
        event = self._ring.driver[0]
        return self._count_publication(
            need_position(event, self._used_slot, self._used_lap, moved, self.num, self._event_idx)
        )

    def show(self) -> bool:
        self._shown = min(self._shown + self._show(), self.num)
        self._batch += 1
        return self._shown > 0

    def decide(self) -> bool:
        count, self._shown = self._shown, 0
        return count > 0 and self._wants_call(count)

    def notify_enable(self) -> bool:
        if self.broken:
            return False
        # Compare with the descriptors read, not with those taken: abandoned chains would make the device spin.
        slot, lap = self._slot + self._ahead, self._lap
        if slot >= self.num:
            slot, lap = slot - self.num, lap ^ 1
        self._ring.device[0] = at(slot, lap) | DESC if self._event_idx else ENABLE
        # Pairs with the fence in the driver's publish.
        self.memory.fence()
        return self._budget <= 0 or bool(self._desc[2 * slot + 1] >> 48 & HANDS == available(lap))

    def notify_disable(self) -> None:
        self._ring.device[0] = DISABLE

    def state(self) -> QueueState:
        avail, behind = at(self._slot, self._lap), at(self._used_slot, self._used_lap)
        return QueueState(self.num, avail, behind, self._chains - self._returned, self.broken)
