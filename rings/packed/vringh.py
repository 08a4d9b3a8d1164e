"""The device's side of a packed virtqueue: everything it reads may be a lie, and is read once.

Positions are this side's own. A descriptor is the driver's until its bits say that it was made available in this lap,
and after that until the batch that uses it is published (VIRTIO 1.4 section 2.8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rings.chain import Buffers, Chain
from rings.errors import BadRing, LocalRingError, MemoryFault
from rings.layout import INDIRECT, NEXT, WRITE, RingAddrs
from rings.memory import Addr, Memory
from rings.packed.ring import DESC, DISABLE, ENABLE, FIRST_LAP, HANDS, PackedRing, at, available, used
from rings.queue import QueueState
from rings.sides import IN_FLIGHT, MAX_CHAIN_BYTES, MAX_SEGMENT, DeviceSide
from rings.suppression import need_position

__all__ = ["PackedVringh", "Words"]

Words = Sequence[tuple[int, int]]
"""The descriptors of a chain, each as its two words: address, then length, buffer id and flags."""
CHAINED = NEXT | INDIRECT
KIND = HANDS | CHAINED | WRITE
NOWHERE = -1


class PackedVringh(DeviceSide):
    """See `rings.queue.Vringh`. A chain's head is its buffer id.

    ``base`` is the position both sides start from: the descriptor's number, and the wrap counter in bit 15.
    """

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
        """Raises BadRing or MemoryFault where no ring can be: then nothing is held."""
        self._ring = PackedRing(memory, num, addrs)
        if base % FIRST_LAP >= num:
            self._ring.close()
            raise BadRing(f"a queue of {num} descriptors can't start at {base % FIRST_LAP}")
        super().__init__(memory, self._ring, num, indirect, table_max)
        self._event_idx = event_idx
        self._desc = self._ring.desc
        self._counts = [0] * num  # by buffer id: descriptors of the ring that the chain takes
        self._slot, self._lap = base % FIRST_LAP, base // FIRST_LAP & 1  # next descriptor to take
        self._ahead = 0  # descriptors that were looked at and given back untouched
        self._out = 0  # descriptors taken and not shown as used
        self._used_slot, self._used_lap = self._slot, self._lap  # next descriptor to mark used
        self._held, self._held_word = NOWHERE, 0  # the one that hides what was not published
        self._hidden = 0  # descriptors that were completed and not published
        self._again: deque[Words] = deque()  # chains to take before the ring is looked at
        self._retaken: dict[int, Words] = {}  # those of them that are in flight, by buffer id

    def resume(self, position: int, again: Sequence[Words]) -> None:
        """Go on where another device's side ended, before anything is taken: at ``position``, which is used next.

        The chains that it took and did not give back, ``again``, are taken first: the driver's next descriptor is
        behind as many as they have. Raises BadRing for a position or chains that can't be.
        """
        num, desc, slot, lap = self.num, self._desc, position % FIRST_LAP, position // FIRST_LAP & 1
        counts = {words[-1][1] >> 32 & 0xFFFF: len(words) for words in again}
        out = sum(map(len, again))
        if slot >= num or len(counts) < len(again) or out > num or any(ident >= num for ident in counts):
            raise BadRing(f"a queue of {num} descriptors can't go on at {slot} with buffers {list(counts)}")
        self._used_slot, self._used_lap = slot, lap
        for ident, count in counts.items():
            self._counts[ident] = count
        for step in range(num):
            if step == out:
                self._slot, self._lap = slot, lap
            # A device that ended within `publish` may have marked these as used, where the driver did not look yet.
            word = desc[2 * slot + 1]
            if word >> 48 & HANDS == used(lap):
                desc[2 * slot + 1] = word & ~(HANDS << 48) | available(lap) << 48
            slot += 1
            if slot == num:
                slot, lap = 0, lap ^ 1
        if out == num:
            self._slot, self._lap = slot, lap
        self._out = out
        self._again = deque(again)

    def hands(self, slot: int) -> int:
        """Whose the descriptor is: `HANDS` of its flags."""
        return int(self._desc[2 * slot + 1] >> 48 & HANDS)

    def descriptors(self, heads: Sequence[int]) -> list[Words]:
        """What stands in the ring of the chains ``heads``: those that the last `getdescs` took from it, all of them."""
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
        if self.broken or self._left <= 0:
            return chains
        if self._again:
            return self._retake(limit)
        # One batch is one trip through here: what every chain needs is looked up once.
        num, desc, slot, lap, out = self.num, self._desc, self._slot, self._lap, self._out
        taken, counts, batch, view = self._taken, self._counts, self._batch, self._memory.view
        want, paused = available(lap), False
        try:
            for _ in range(limit):
                # Loaded once, before the address that it vouches for; what is checked below is this copy.
                word = desc[2 * slot + 1]
                flags = word >> 48
                if flags & HANDS != want:
                    break
                if out >= num:
                    raise BadRing(f"descriptor {slot} was made available again while in flight")
                if flags & CHAINED:
                    ident, count, chain = self._walk(slot, word, want, min(num - out, self._longest))
                    paused = self._left <= 0
                else:
                    ident, count = word >> 32 & 0xFFFF, 1
                    if size := word & MAX_SEGMENT:
                        addr, writable = desc[2 * slot], flags & WRITE != 0
                        try:
                            segs = [view(addr, size, writable)]
                        except MemoryFault:
                            segs = self._memory.segments(addr, size, writable)
                        chain = (ident, [], segs) if writable else (ident, segs, [])
                    else:
                        chain = ident, [], []
                if ident >= num:
                    raise BadRing(f"descriptor {slot} names buffer {ident} of {num}")
                if taken[ident] >= batch:
                    raise BadRing(f"buffer {ident} was made available again while in flight")
                taken[ident] = IN_FLIGHT
                counts[ident] = count
                out += count
                slot += count
                if slot >= num:
                    slot, lap, want = slot - num, lap ^ 1, want ^ HANDS
                chains.append(chain)
                if paused:
                    break
        except (BadRing, MemoryFault):
            # What came before it is good. It is met again, first, when the next one is asked for.
            if not chains:
                raise
        if chains:
            self._went_on(slot, lap, out, len(chains))
        return chains

    def getbufs(self, limit: int, /) -> Buffers:
        idents: list[int] = []
        addrs: list[Addr] = []
        sizes: list[int] = []
        if self.broken or self._again:
            return idents, sizes, []
        num, desc, slot, lap, out = self.num, self._desc, self._slot, self._lap, self._out
        taken, counts, batch = self._taken, self._counts, self._batch
        want = available(lap) | WRITE
        for _ in range(limit):
            # As in `getdescs`.
            word = desc[2 * slot + 1]
            ident, size = word >> 32 & 0xFFFF, word & MAX_SEGMENT
            if word >> 48 & KIND != want or out >= num or ident >= num or taken[ident] >= batch or not size:
                break
            addrs.append(desc[2 * slot])
            taken[ident] = IN_FLIGHT
            counts[ident] = 1
            idents.append(ident)
            sizes.append(size)
            out += 1
            slot += 1
            if slot == num:
                slot, lap, want = 0, lap ^ 1, want ^ HANDS
        if not idents or not (views := self._lent(idents, addrs, sizes)):
            return [], [], []
        self._went_on(slot, lap, out, len(idents))
        return idents, sizes, views

    def _went_on(self, slot: int, lap: int, out: int, chains: int) -> None:
        """So many chains were taken, and this comes next."""
        self._ahead = max(0, self._ahead - (out - self._out))
        self._slot, self._lap, self._out = slot, lap, out
        self._chains += chains

    def _walk(self, slot: int, word: int, want: int, room: int) -> tuple[int, int, Chain]:
        """A list of more than one descriptor, or one that leads to a table: buffer id, descriptors taken, chain."""
        first = slot
        words = [(self._desc[2 * slot], word)]
        while word >> 48 & CHAINED == NEXT:
            if len(words) == room:
                raise BadRing(f"descriptor {first}: a list longer than the {room} descriptors there are")
            slot += 1
            if slot == self.num:
                slot, want = 0, want ^ HANDS
            word = self._desc[2 * slot + 1]
            if word >> 48 & HANDS != want:
                raise BadRing(f"descriptor {first}: {slot} in its list was not made available")
            words.append((self._desc[2 * slot], word))
        ident = word >> 32 & 0xFFFF
        return ident, len(words), (ident, *self._halves(first, words))

    def _retake(self, limit: int) -> list[Chain]:
        chains: list[Chain] = []
        while self._again and len(chains) < limit and self._left > 0:
            words = self._again[0]
            ident = words[-1][1] >> 32 & 0xFFFF
            try:
                chains.append((ident, *self._halves(ident, words)))
            except (BadRing, MemoryFault):
                if not chains:
                    raise
                break
            self._retaken[ident] = self._again.popleft()
            self._taken[ident] = IN_FLIGHT
            self._chains += 1
        return chains

    def _halves(self, first: int, words: Words) -> tuple[list[memoryview], list[memoryview]]:
        """What may be read and what may be written of a chain of these descriptors, in the ring or of a table."""
        table = [word for _, word in words if word >> 48 & INDIRECT]
        if table and (len(words) > 1 or table[0] >> 48 & NEXT):
            raise BadRing(f"descriptor {first}: an indirect table in a list")
        if table:
            # Of a table's entries only WRITE counts, whatever else is set in them (section 2.8.7).
            entries, count = self._table(first, Addr(words[0][0]), table[0] & MAX_SEGMENT)
            words = [(entries[2 * entry], entries[2 * entry + 1]) for entry in range(count)]
        self._left -= len(words)
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        if sum(word & MAX_SEGMENT for _, word in words) > MAX_CHAIN_BYTES:
            raise BadRing(f"descriptor {first}: more than 2^32 bytes")
        wrote = False
        for addr, word in words:
            write = bool(word >> 48 & WRITE)
            if wrote and not write:
                raise BadRing(f"descriptor {first}: a readable buffer after a writable one")
            wrote = write
            self._resolve(Addr(addr), word & MAX_SEGMENT, wrote, writable if wrote else readable)
        return readable, writable

    def abandon(self, head: int, /) -> None:
        self._given_up(head)
        if head in self._retaken:
            self._again.appendleft(self._retaken.pop(head))
            return
        count = self._counts[head]
        self._out -= count
        self._ahead += count
        self._slot -= count
        if self._slot < 0:
            self._slot, self._lap = self._slot + self.num, self._lap ^ 1

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        taken, counts, batch = self._taken, self._counts, self._batch
        desc, num, slot, lap, hidden = self._desc, self.num, self._used_slot, self._used_lap, self._hidden
        flags = used(lap) << 48
        held = slot if self._held == NOWHERE else self._held
        try:
            for ident, written in done:
                if taken[ident] != IN_FLIGHT:
                    raise LocalRingError(f"descriptor {ident} was not taken")
                taken[ident] = batch
                word = written | ident << 32 | flags | (WRITE << 48 if written else 0)
                if slot != held:
                    desc[2 * slot + 1] = word
                else:
                    self._held, self._held_word = slot, word
                count = counts[ident]
                hidden += count
                slot += count
                if slot >= num:
                    slot, lap, flags = slot - num, lap ^ 1, used(lap ^ 1) << 48
                self._returned += 1
        finally:
            self._used_slot, self._used_lap, self._hidden = slot, lap, hidden
        if self._retaken:
            for ident, _ in done:
                self._retaken.pop(ident, None)

    def publish(self) -> bool:
        if self._held == NOWHERE:
            return False
        self._desc[2 * self._held + 1] = self._held_word
        moved, self._hidden = self._hidden, 0
        self._held = NOWHERE
        self._out -= moved
        # Pairs with the fence in the driver's enable_cb: it sees our descriptor, or we see its event.
        self._memory.fence()
        event = self._ring.driver[0]
        return self._told(need_position(event, self._used_slot, self._used_lap, moved, self.num, self._event_idx))

    def notify_enable(self) -> bool:
        if self.broken:
            return False
        # From where this side looked to: what it saw and gave back again was not enough for it.
        slot, lap = self._slot + self._ahead, self._lap
        if slot >= self.num:
            slot, lap = slot - self.num, lap ^ 1
        self._ring.device[0] = at(slot, lap) | DESC if self._event_idx else ENABLE
        # Pairs with the fence in the driver's publish.
        self._memory.fence()
        return self._left <= 0 or bool(self._desc[2 * slot + 1] >> 48 & HANDS == available(lap))

    def notify_disable(self) -> None:
        self._ring.device[0] = DISABLE

    def state(self) -> QueueState:
        avail, behind = at(self._slot, self._lap), at(self._used_slot, self._used_lap)
        return QueueState(self.num, avail, behind, self._chains - self._returned, self.broken)
