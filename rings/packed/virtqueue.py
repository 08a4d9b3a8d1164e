"""The driver's side of a packed virtqueue (VIRTIO 1.4 section 2.8).

The device reads descriptors in ring order, so the first one of a batch hides all behind it: its second word is withheld
until `publish`, whose one store then makes the whole batch available.
"""

from __future__ import annotations

from collections.abc import Sequence

from rings.errors import BadRing, LocalRingError, QueueFull
from rings.layout import DESC_SIZE, INDIRECT, NEXT, WRITE, RingAddrs
from rings.memory import Addr, Memory
from rings.packed.ring import DESC, DISABLE, ENABLE, HANDS, PackedRing, at, available, used
from rings.queue import QueueState, Segment
from rings.sides import MAX_SEGMENT, DriverSide
from rings.suppression import need_position
from rings.view import RingView, view_packed

__all__ = ["PackedVirtqueue"]

NOWHERE = -1


class PackedVirtqueue(DriverSide):
    """See `rings.queue.Virtqueue`.

    ``indirect`` is the address of ``num`` tables of ``indirect_max`` descriptors each, one per buffer id, if the
    feature is negotiated; chains of two descriptors and more then take one slot of the ring.

    With ``in_order`` the device uses buffers in the order in which they were added (section 2.8.8). Then buffer ids are
    given out in turn.
    """

    TABLE_WRITE = WRITE << 48

    def __init__(
        self,
        memory: Memory,
        num: int,
        addrs: RingAddrs,
        *,
        event_idx: bool,
        indirect: Addr | None = None,
        indirect_max: int = 0,
        in_order: bool = False,
    ) -> None:
        """Zero all three areas. On BadRing or MemoryFault, releases everything."""
        self._ring = PackedRing(memory, num, addrs)
        super().__init__(memory, self._ring, indirect, indirect_max, num, in_order)
        self._event_idx = event_idx
        self._desc = self._ring.desc
        self._ids = [*range(num - 1, -1, -1)]  # stack of free buffer ids
        self._slot = 0  # next descriptor to make available
        self._lap = 1
        self._first_slot, self._first_word = NOWHERE, 0  # first descriptor of the unpublished batch, and its word
        self._unpublished = self._unpublished_chains = 0  # descriptors and chains
        self._used_slot = 0  # next descriptor that the device uses
        self._used_lap = 1
        self._in_flight = 0  # published chains that the device may use
        for index in range(2 * num):
            self._desc[index] = 0
        self._ring.driver[0] = self._ring.device[0] = ENABLE

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: int, /) -> None:
        count = len(readable) + len(writable)
        if count == 1:
            [(addr, size)] = readable or writable
            self.add_each(((addr, size, token),), bool(writable))
            return
        if self._fits_table(count):
            ident = self._ids[-1]
            self._writable[ident] = self._fill_table(ident, readable, writable)
            assert self._indirect is not None
            table = Addr(self._indirect + ident * self._indirect_max * DESC_SIZE)
            segs = [(table, count * DESC_SIZE, INDIRECT)]
        else:
            segs = self._segments(readable, writable)
            ident = self._ids[-1]
            self._writable[ident] = sum(size for _, size in writable)
        self._ids.pop()
        last = len(segs) - 1
        for index, (addr, size, flags) in enumerate(segs):
            word = size | flags << 48 | (NEXT << 48 if index < last else ident << 32)
            self._put(addr, word)
        self._tokens[ident] = token
        self._counts[ident] = len(segs)
        self.num_free -= len(segs)
        self._unpublished += len(segs)
        self._unpublished_chains += 1
        self._chains += 1

    def _put(self, addr: int, word: int) -> None:
        """Fill the next descriptor with ``word``, adding the bits that make it available."""
        slot = self._slot
        word |= available(self._lap) << 48
        self._desc[2 * slot] = addr
        if self._first_slot == NOWHERE:
            self._first_slot, self._first_word = slot, word
        else:
            self._desc[2 * slot + 1] = word
        self._slot += 1
        if self._slot == self.num:
            self._slot, self._lap = 0, self._lap ^ 1

    def add_each(self, buffers: Sequence[tuple[Addr, int, int]], writable: bool, /) -> None:
        count = len(buffers)
        if not count:
            return
        if count > self.num_free:
            raise QueueFull(f"{count} descriptors wanted, {self.num_free} free")
        desc, num, slot, lap, ids = self._desc, self.num, self._slot, self._lap, self._ids
        tokens, room, counts = self._tokens, self._writable, self._counts
        write = WRITE if writable else 0
        flags = (available(lap) | write) << 48
        first_slot = slot if self._first_slot == NOWHERE else self._first_slot
        first_word = self._first_word
        index = len(ids)
        try:
            for addr, size, token in buffers:
                if size > MAX_SEGMENT:
                    raise LocalRingError(f"a segment of {size} bytes does not fit a descriptor")
                index -= 1
                ident = ids[index]
                tokens[ident] = token
                counts[ident] = 1
                room[ident] = size if writable else 0
                desc[2 * slot] = addr
                if slot != first_slot:
                    desc[2 * slot + 1] = size | ident << 32 | flags
                else:
                    first_word = size | ident << 32 | flags
                slot += 1
                if slot == num:
                    slot, lap = 0, lap ^ 1
                    flags = (available(lap) | write) << 48
        except BaseException:
            self._take_back(ids[index:], first_slot)
            raise
        del ids[index:]
        self._first_slot, self._first_word = first_slot, first_word
        self._slot, self._lap = slot, lap
        self._unpublished += count
        self._unpublished_chains += count
        self.num_free -= count
        self._chains += count

    def _take_back(self, idents: Sequence[int], first_slot: int) -> None:
        """Undo a failed `add_each`: reset the descriptors written behind the batch's first one."""
        slot, lap = self._slot, self._lap
        for ident in idents:
            self._tokens[ident] = None
            if slot != first_slot:
                self._desc[2 * slot + 1] = used(lap ^ 1) << 48
            slot += 1
            if slot == self.num:
                slot, lap = 0, lap ^ 1

    def publish(self) -> bool:
        if self._first_slot == NOWHERE:
            return False
        # Program order is store order on the machines this runs on: the rest of the batch is visible before its first.
        self._desc[2 * self._first_slot + 1] = self._first_word
        moved, self._unpublished = self._unpublished, 0
        self._in_flight += self._unpublished_chains
        self._unpublished_chains = 0
        self._first_slot = NOWHERE
        # Pairs with the fence in the device's notify_enable: it sees our descriptor, or we see its event.
        self.memory.fence()
        event = self._ring.device[0]
        return self._count_publication(need_position(event, self._slot, self._lap, moved, self.num, self._event_idx))

    def get_each(self, limit: int, /) -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []
        if self._violation is not None:
            raise BadRing(*self._violation)
        if self._in_order:
            return self._get_in_order(limit)
        desc, num, slot, lap = self._desc, self.num, self._used_slot, self._used_lap
        tokens, counts, writable, ids = self._tokens, self._counts, self._writable, self._ids
        want, freed, in_flight = used(lap), 0, self._in_flight
        try:
            for _ in range(limit):
                word = desc[2 * slot + 1]  # loaded once
                if word >> 48 & HANDS != want:
                    break
                if not in_flight:
                    raise BadRing(f"descriptor {slot} is used, with none in flight")
                # Use the length even without WRITE: not every device sets that flag in a used descriptor.
                ident, written = word >> 32 & 0xFFFF, word & 0xFFFF_FFFF
                if ident >= num:
                    raise BadRing(f"used descriptor {slot} names buffer {ident} of {num}")
                token = tokens[ident]
                if token is None:
                    raise BadRing(f"used descriptor {slot} names buffer {ident}, which is not in flight")
                if written > writable[ident]:
                    written = 0
                    self._bad_lengths += 1
                tokens[ident] = None
                ids.append(ident)
                count = counts[ident]
                freed += count
                in_flight -= 1
                slot += count
                if slot >= num:
                    slot, lap, want = slot - num, lap ^ 1, want ^ HANDS
                done.append((token, written))
        except BadRing as exc:
            # Return the good descriptors before it first, and never read the bad one again.
            self._violation = str(exc), exc.section
            if not done:
                raise
        self._used_slot, self._used_lap, self._in_flight = slot, lap, in_flight
        self.num_free += freed
        self._returned += len(done)
        return done

    def _get_in_order(self, limit: int) -> list[tuple[int, int]]:
        """Take chains back, oldest first: a used descriptor stands for all up to its own (section 2.8.8).

        The device has read or written the others of such a batch completely, and skipped their descriptors.
        """
        done: list[tuple[int, int]] = []
        desc, num, slot, lap = self._desc, self.num, self._used_slot, self._used_lap
        counts, ident, batch, freed, idents = self._counts, self._oldest, self._batch, 0, []
        try:
            for in_flight in range(self._in_flight, self._in_flight - limit, -1):
                if batch is None:
                    word = desc[2 * slot + 1]  # loaded once
                    if word >> 48 & HANDS != used(lap):
                        break
                    batch = word >> 32 & 0xFFFF, word & 0xFFFF_FFFF
                    if not in_flight or (batch[0] - ident) % num >= in_flight or batch[0] >= num:
                        where = f"used descriptor {slot} names buffer {batch[0]}"
                        raise BadRing(f"{where}, which is not one of the {in_flight} oldest in flight", "2.8.8")
                done.append(self._take_used(ident, *batch))
                if batch[0] == ident:
                    batch = None
                count = counts[ident]
                idents.append(ident)
                ident = ident + 1 if ident + 1 < num else 0
                freed += count
                slot += count
                if slot >= num:
                    slot, lap = slot - num, lap ^ 1
        except BadRing as exc:
            batch = None
            self._violation = str(exc), exc.section
            if not done:
                raise
        self._ids[0:0] = reversed(idents)
        self._oldest, self._batch = ident, batch
        self._used_slot, self._used_lap = slot, lap
        self._in_flight -= len(done)
        self.num_free += freed
        self._returned += len(done)
        return done

    def enable_cb(self) -> bool:
        return self._enable_cb(0)

    def enable_cb_delayed(self) -> bool:
        in_flight = self.num - self.num_free - self._unpublished
        return self._enable_cb(in_flight * 3 // 4)

    def _enable_cb(self, after: int) -> bool:
        """Request a call once the device has used ``after`` descriptors and one more."""
        if not self._event_idx:
            self._ring.driver[0] = ENABLE
        else:
            slot, lap = self._used_slot + after, self._used_lap
            if slot >= self.num:
                slot, lap = slot - self.num, lap ^ 1
            self._ring.driver[0] = at(slot, lap) | DESC
        # Pairs with the fence in the device's publish.
        self.memory.fence()
        return self._is_past(after)

    def _is_past(self, after: int) -> bool:
        """Return whether the device used the descriptor ``after`` ahead, skipping from chain to chain."""
        if self._in_order:
            return self._is_past_in_order(after)
        slot, lap, passed = self._used_slot, self._used_lap, 0
        while (word := self._desc[2 * slot + 1]) >> 48 & HANDS == used(lap):
            ident = word >> 32 & 0xFFFF
            if passed >= after or ident >= self.num or self._tokens[ident] is None:
                return True  # `get_each` raises if the descriptor is bad
            count = self._counts[ident]
            passed += count
            if passed > after:
                return True
            slot += count
            if slot >= self.num:
                slot, lap = slot - self.num, lap ^ 1
        return False

    def _is_past_in_order(self, after: int) -> bool:
        """Return the same if a used descriptor may stand for several chains."""
        slot, lap, passed, ident = self._used_slot, self._used_lap, 0, self._oldest
        last = NOWHERE if self._batch is None else self._batch[0]
        for _ in range(self._in_flight):
            if last == NOWHERE:
                word = self._desc[2 * slot + 1]
                if word >> 48 & HANDS != used(lap):
                    return False
                last = word >> 32 & 0xFFFF
            count = self._counts[ident]
            passed += count
            if passed > after:
                return True
            slot += count
            if slot >= self.num:
                slot, lap = slot - self.num, lap ^ 1
            if ident == last:
                last = NOWHERE
            ident = ident + 1 if ident + 1 < self.num else 0
        # `get_each` raises if the last descriptor is bad, or if there is one more than chains in flight.
        return last != NOWHERE or bool(self._desc[2 * slot + 1] >> 48 & HANDS == used(lap))

    def disable_cb(self) -> None:
        self._ring.driver[0] = DISABLE

    def state(self) -> QueueState:
        avail, behind = at(self._slot, self._lap), at(self._used_slot, self._used_lap)
        return QueueState(self.num, avail, behind, self._chains - self._returned)

    def view(self) -> RingView:
        position = at(self._used_slot, self._used_lap)
        return view_packed(self.memory, self.num, self._ring.addrs, position, self._find_outstanding())

    def _find_outstanding(self) -> int | None:
        """Return the position behind all used chains, for `view_packed`; None if the device broke the ring."""
        slot, lap, ident = self._used_slot, self._used_lap, self._oldest
        last = None if self._batch is None else self._batch[0]
        for _ in range(self._in_flight):
            if last is None:
                word = self._desc[2 * slot + 1]
                if word >> 48 & HANDS != used(lap):
                    break
                last = word >> 32 & 0xFFFF
            if not self._in_order:
                ident = last
            if max(ident, last) >= self.num or self._tokens[ident] is None:
                return None
            slot += self._counts[ident]
            if slot >= self.num:
                slot, lap = slot - self.num, lap ^ 1
            if ident == last:
                last = None
            ident = ident + 1 if ident + 1 < self.num else 0
        return at(slot, lap)
