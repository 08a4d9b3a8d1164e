"""The driver's side of a split virtqueue (VIRTIO 1.4 section 2.7).

The descriptor table is only written, never read back: the device could change it. Lengths, links and tokens of chains
in flight live in private lists.
"""

from __future__ import annotations

from collections.abc import Sequence

from rings.errors import BadRing, LocalRingError, QueueFull
from rings.layout import DESC_SIZE, INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, WRITE, RingAddrs
from rings.memory import Addr, Memory
from rings.queue import QueueState, Segment
from rings.sides import MAX_SEGMENT, DriverSide
from rings.split.ring import AVAIL_RING, FLAGS, IDX, SplitRing
from rings.suppression import need_event
from rings.view import RingView, view_split

__all__ = ["SplitVirtqueue"]


class SplitVirtqueue(DriverSide):
    """See `rings.queue.Virtqueue`.

    ``indirect`` is the address of ``num`` tables of ``indirect_max`` descriptors each, one per head, if the feature is
    negotiated; chains of two descriptors and more then take one slot of the ring.

    With ``in_order`` the device uses buffers in the order in which they were added (section 2.7.9). Then descriptors
    are taken in ring order, because they become free in that order.
    """

    TABLE_WRITE = WRITE << 32

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
        """Zero flags, indices and events. On BadRing or MemoryFault, releases everything."""
        self._ring = SplitRing(memory, num, addrs)
        super().__init__(memory, self._ring, indirect, indirect_max, num, in_order)
        self._mask = num - 1
        self._event_idx = event_idx
        self._desc = self._ring.desc
        self._avail = self._ring.avail
        self._used_elems = self._ring.used_elems
        self._links = [NEXT << 32 | at + 1 << 48 for at in range(self._indirect_max)]
        self._next = [*range(1, num), 0]  # by descriptor: the next free one, or the next in its chain
        self._free = 0
        self._added = 0  # available index including unpublished chains
        self._published = 0
        self._last_used = 0
        self._used_end = 0
        for words, event in ((self._ring.avail, self._ring.used_event), (self._ring.used, self._ring.avail_event)):
            words[FLAGS] = words[IDX] = words[event] = 0

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: int, /) -> None:
        count = len(readable) + len(writable)
        if count == 1:
            [(addr, size)] = readable or writable
            self.add_each(((addr, size, token),), bool(writable))
            return
        head = self._free
        if self._fits_table(count):
            room = self._fill_table(head, readable, writable)
            assert self._indirect is not None
            self._desc[2 * head] = self._indirect + head * self._indirect_max * DESC_SIZE
            self._desc[2 * head + 1] = count * DESC_SIZE | INDIRECT << 32
            self._free = self._next[head]
            slots = 1
        else:
            room = self._fill_ring(self._segments(readable, writable))
            slots = count
        self._counts[head] = slots
        self.num_free -= slots
        self._writable[head] = room
        self._tokens[head] = token
        self._avail[AVAIL_RING + (self._added & self._mask)] = head
        self._added = self._added + 1 & 0xFFFF
        self._chains += 1

    def add_each(self, buffers: Sequence[tuple[Addr, int, int]], writable: bool, /) -> None:
        count = len(buffers)
        if count > self.num_free:
            raise QueueFull(f"{count} descriptors wanted, {self.num_free} free")
        head, added, mask, following = self._free, self._added, self._mask, self._next
        desc, avail, room, counts, tokens = self._desc, self._avail, self._writable, self._counts, self._tokens
        flags = WRITE << 32 if writable else 0
        try:
            for addr, size, token in buffers:
                if size > MAX_SEGMENT:
                    raise LocalRingError(f"a segment of {size} bytes does not fit a descriptor")
                room[head] = size if writable else 0
                at = 2 * head
                desc[at] = addr
                desc[at + 1] = size | flags
                counts[head] = 1
                tokens[head] = token
                avail[AVAIL_RING + (added & mask)] = head
                added += 1
                head = following[head]
        except BaseException:
            # Add nothing: a free descriptor must not have a token, else the device could return it.
            head = self._free
            for _ in buffers:
                tokens[head] = None
                head = following[head]
            raise
        self._free = head
        self._added = added & 0xFFFF
        self.num_free -= count
        self._chains += count

    def _fill_ring(self, segs: Sequence[tuple[Addr, int, int]]) -> int:
        """Write a chain to free descriptors. Returns the bytes that the device may write."""
        index, count, room = self._free, len(segs), 0
        for at, (addr, size, flags) in enumerate(segs):
            following = self._next[index]
            link = (NEXT | flags) << 32 | following << 48 if at + 1 < count else flags << 32
            self._desc[2 * index] = addr
            self._desc[2 * index + 1] = size | link
            room += size if flags else 0
            index = following
        self._free = index
        return room

    def publish(self) -> bool:
        old, new = self._published, self._added
        if old == new:
            return False
        # Program order is store order on the machines this runs on: entries are visible before the index.
        self._avail[IDX] = new
        self._published = new
        # Pairs with the fence in the device's notify_enable: it sees our index, or we see its event.
        self.memory.fence()
        used = self._ring.used
        if self._event_idx:
            wanted = need_event(used[self._ring.avail_event], new, old)
        else:
            wanted = not used[FLAGS] & NO_NOTIFY
        return self._count_publication(wanted)

    def get_each(self, limit: int, /) -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []
        first = last = self._last_used
        if self._violation is not None:
            raise BadRing(*self._violation)
        if last == self._used_end and not self._fetch_index():
            return done
        if self._in_order:
            return self._get_in_order(limit)
        num, mask, elems, following = self.num, self._mask, self._used_elems, self._next
        tokens, writable, counts, free, freed = self._tokens, self._writable, self._counts, self._free, 0
        try:
            for last in range(first, first + min(limit, self._used_end - first & 0xFFFF)):
                elem = elems[last & mask]  # loaded once
                head, written = elem & 0xFFFF_FFFF, elem >> 32
                if head >= num:
                    raise BadRing(f"used element {last & 0xFFFF} names descriptor {head} of {num}", "2.7.8")
                token = tokens[head]
                if token is None:
                    where = f"used element {last & 0xFFFF} names descriptor {head}"
                    raise BadRing(f"{where}, which is not the head of one in flight", "2.7.8")
                if written > writable[head]:
                    written = 0
                    self._bad_lengths += 1
                tokens[head] = None
                tail, count = head, counts[head]
                freed += count
                while count > 1:
                    tail, count = following[tail], count - 1
                following[tail] = free
                free = head
                done.append((token, written))
        except BadRing as exc:
            # Return the good elements before it first. Never read the bad element again: the driver may meanwhile have
            # added a buffer that the device returned twice, and the element would look valid.
            self._violation = str(exc), exc.section
            if not done:
                raise
        self._free = free
        self.num_free += freed
        self._last_used = first + len(done) & 0xFFFF
        self._returned += len(done)
        return done

    def _get_in_order(self, limit: int) -> list[tuple[int, int]]:
        """Take chains back, oldest first: a used element stands for all up to its own (section 2.7.9).

        The device has read or written the others of such a batch completely.
        """
        done: list[tuple[int, int]] = []
        elems, mask, first = self._used_elems, self._mask, self._last_used
        counts, head, batch, freed = self._counts, self._oldest, self._batch, 0
        try:
            for last in range(first, first + min(limit, self._used_end - first & 0xFFFF)):
                if batch is None:
                    elem = elems[last & mask]  # loaded once
                    batch = elem & 0xFFFF_FFFF, elem >> 32
                    if batch[0] != head:
                        self._check_batch(head, batch[0], last, self._used_end - last & 0xFFFF)
                done.append(self._take_used(head, *batch))
                if batch[0] == head:
                    batch = None
                count = counts[head]
                freed += count
                head = head + count & mask
        except BadRing as exc:
            batch = None
            self._violation = str(exc), exc.section
            if not done:
                raise
        self._oldest, self._batch = head, batch
        self.num_free += freed
        self._last_used = first + len(done) & 0xFFFF
        self._returned += len(done)
        return done

    def _check_batch(self, head: int, end: int, index: int, most: int) -> None:
        """Raise BadRing unless ``end`` is the head of one of the ``most`` chains from ``head`` on."""
        for _ in range(most):
            if head == end:
                return
            head = head + self._counts[head] & self._mask
        where = f"used element {index & 0xFFFF} names descriptor {end}"
        raise BadRing(f"{where}, which is not the head of one of the {most} oldest in flight", "2.7.9")

    def _fetch_index(self) -> bool:
        """Read the used index. Returns whether it advanced."""
        index = self._ring.used[IDX]
        if index == self._last_used:
            return False
        ahead = index - self._last_used & 0xFFFF
        in_flight = self._published - self._last_used & 0xFFFF
        if ahead > in_flight:
            raise BadRing(f"used index {index} is {ahead} ahead, with {in_flight} in flight", "2.7.8")
        self._used_end = index
        return True

    def enable_cb(self) -> bool:
        return self._enable_cb(0)

    def enable_cb_delayed(self) -> bool:
        return self._enable_cb((self._published - self._last_used & 0xFFFF) * 3 // 4)

    def _enable_cb(self, after: int) -> bool:
        if self._event_idx:
            self._avail[self._ring.used_event] = self._last_used + after & 0xFFFF
        else:
            self._avail[FLAGS] = 0
        # Pairs with the fence in the device's publish.
        self.memory.fence()
        return (self._ring.used[IDX] - self._last_used & 0xFFFF) > after

    def disable_cb(self) -> None:
        # With EVENT_IDX the event already passed suppresses calls for the next 65536 buffers.
        if not self._event_idx:
            self._avail[FLAGS] = NO_INTERRUPT

    def state(self) -> QueueState:
        return QueueState(self.num, self._added, self._last_used, self._chains - self._returned)

    def view(self) -> RingView:
        return view_split(self.memory, self.num, self._ring.addrs, event_idx=self._event_idx)
