"""Driver and device side as shared by both formats: chains in flight, counters, and limits of a chain."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from rings.areas import Areas
from rings.chain import NO_PLAIN, Chain, Plain
from rings.errors import BadRing, LocalRingError, MemoryFault, QueueFull
from rings.layout import DESC_SIZE, WRITE
from rings.memory import Addr, Memory
from rings.queue import QueueStatistics, Segment

__all__ = ["FREE", "IN_FLIGHT", "MAX_CHAIN_BYTES", "MAX_SEGMENT", "DeviceSide", "DriverSide"]

MAX_CHAIN_BYTES = 1 << 32
CHAIN_MAX = 8192
"""Maximum descriptors of a chain that a device's side accepts, in larger rings: following one takes some 5 ms."""
NO_PACE = 1 << 62
"""Work budget of a turn without a limit."""
MAX_SEGMENT = 0xFFFF_FFFF
"""Maximum bytes of a descriptor: the largest value of its length field."""
TOO_LONG = "a chain may not have more than 2^32 bytes, nor a segment of it as many"
FREE, IN_FLIGHT = 0, 1 << 62
"""States of a chain; the number of each batch of completed chains lies between them."""


class DriverSide:
    """State of the driver's side. It keeps lengths and tokens of chains in flight and never reads a descriptor back."""

    # With slots, subclasses stay below the number of attributes that CPython finds fast: `rings.observers.overlay`.
    __slots__ = (
        "_areas",
        "_bad_lengths",
        "_batch",
        "_chains",
        "_counts",
        "_in_order",
        "_indirect",
        "_indirect_max",
        "_kicks",
        "_links",
        "_oldest",
        "_returned",
        "_suppressed",
        "_tables",
        "_tokens",
        "_violation",
        "_writable",
        "memory",
        "native",
        "num",
        "num_free",
    )

    TABLE_WRITE: ClassVar[int]
    """Flag of a device-writable entry of an indirect table, in its second word."""

    def __init__(
        self, memory: Memory, areas: Areas, indirect: Addr | None, indirect_max: int, num: int, in_order: bool
    ) -> None:
        """Take ``indirect`` as the address of ``num`` tables of ``indirect_max`` descriptors. Raises MemoryFault."""
        self.num = num
        self.num_free = num
        self.native = False
        self.memory = memory
        self._areas = areas
        self._tables: memoryview | None = None
        self._indirect, self._indirect_max = indirect, min(indirect_max, num)
        if indirect is not None:
            self._tables = areas.pin(indirect, num * self._indirect_max * DESC_SIZE, "Q")
        self._links = [0] * self._indirect_max  # by position: flags and next of an entry before the last of a table
        # Chains in flight, by head or buffer id.
        self._tokens: list[int | None] = [None] * num
        self._counts = [0] * num  # ring descriptors of the chain
        self._writable = [0] * num  # bytes that the device may write
        self._in_order = in_order
        self._oldest = 0  # in order: head or buffer id of the oldest chain in flight
        self._batch: tuple[int, int] | None = None  # in order: last chain of the batch that it is in, and bytes written
        # Reason and section of the BadRing; not the exception, whose traceback grows with each raise.
        self._violation: tuple[str, str] | None = None
        self._kicks = self._suppressed = self._chains = self._returned = self._bad_lengths = 0

    def _fits_table(self, count: int) -> bool:
        """Return whether a chain of ``count`` descriptors goes to an indirect table now."""
        return self._tables is not None and 1 < count <= self._indirect_max and self.num_free > 0

    def _fill_table(self, ident: int, readable: Sequence[Segment], writable: Sequence[Segment]) -> int:
        """Write the indirect table of a head or buffer id. Returns the bytes that the device may write.

        Raises LocalRingError for an invalid chain. What is in a table does not matter until a descriptor refers to it.
        """
        tables, links, write = self._tables, self._links, self.TABLE_WRITE
        assert tables is not None
        at, position, total, room = 2 * ident * self._indirect_max, 0, 0, 0
        last = len(readable) + len(writable) - 1
        for addr, size in readable:
            if size > MAX_SEGMENT:
                raise LocalRingError(TOO_LONG)
            tables[at] = addr
            tables[at + 1] = size | links[position] if position < last else size
            total += size
            position += 1
            at += 2
        for addr, size in writable:
            if size > MAX_SEGMENT:
                raise LocalRingError(TOO_LONG)
            tables[at] = addr
            tables[at + 1] = size | write | links[position] if position < last else size | write
            room += size
            position += 1
            at += 2
        if total + room > MAX_CHAIN_BYTES:
            raise LocalRingError(TOO_LONG)
        return room

    def _segments(self, readable: Sequence[Segment], writable: Sequence[Segment]) -> list[tuple[Addr, int, int]]:
        """Return (address, bytes, flags) of each descriptor of a chain that goes to the ring itself.

        Raises LocalRingError for an invalid chain, QueueFull if there is no room.
        """
        segs = [*((addr, size, 0) for addr, size in readable), *((addr, size, WRITE) for addr, size in writable)]
        count = len(segs)
        if not count:
            raise LocalRingError("a chain needs at least one descriptor")
        sizes = [size for _, size, _ in segs]
        if sum(sizes) > MAX_CHAIN_BYTES or max(sizes) > MAX_SEGMENT:
            raise LocalRingError(TOO_LONG)
        in_table = self._tables is not None and 1 < count <= self._indirect_max
        if count > self.num and not in_table:
            raise LocalRingError(f"a chain of {count} descriptors does not fit a queue of {self.num}")
        if (wanted := 1 if in_table else count) > self.num_free:
            raise QueueFull(f"{wanted} descriptors wanted, {self.num_free} free")
        return segs

    def _take_used(self, ident: int, last: int, size: int) -> tuple[int, int]:
        """Take a chain back from a batch that ends with ``last``, to which the device wrote ``size`` bytes.

        Returns its token and the bytes written: the device has written the chains before the last one completely.
        """
        token, room = self._tokens[ident], self._writable[ident]
        assert token is not None  # a batch does not exceed the chains in flight
        self._tokens[ident] = None
        if ident != last:
            return token, room
        if size <= room:
            return token, size
        self._bad_lengths += 1
        return token, 0

    def _count_publication(self, wanted: bool) -> bool:
        """Count a publication, and a kick if ``wanted``. Returns ``wanted``."""
        if wanted:
            self._kicks += 1
        else:
            self._suppressed += 1
        return wanted

    @property
    def tokens(self) -> Sequence[int | None]:
        """Tokens of the chains in flight, by head or buffer id; None for a free one."""
        return self._tokens

    def reachable(self) -> bool:
        return self._areas.reachable()

    def close(self) -> None:
        self._areas.close()

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(self._chains, self._returned, self._kicks, self._suppressed, self._bad_lengths)


class DeviceSide:
    """State of the device's side. It trusts nothing in the ring and reads each field once."""

    __slots__ = (  # see `DriverSide`
        "_allows_tables",
        "_areas",
        "_batch",
        "_budget",
        "_calls",
        "_chains",
        "_longest",
        "_returned",
        "_shown",
        "_states",
        "_suppressed",
        "_table_max",
        "_taken",
        "broken",
        "memory",
        "native",
        "num",
    )

    TABLE_SECTION: ClassVar[str]
    """Section of VIRTIO 1.4 with a driver's rules for indirect tables in this format."""

    def __init__(self, memory: Memory, areas: Areas, num: int, indirect: bool, table_max: int) -> None:
        """Accept chains of up to ``table_max`` descriptors in an indirect table, even if the ring has fewer.

        A driver must not build a chain longer than the ring (sections 2.7.5.3.1, 2.8.17), but Linux's drivers do if
        the device's configuration allows more segments.
        """
        self.num = num
        self.broken = False
        self.native = False
        self.memory = memory
        """Memory of the buffers. An observer may put a memory that remembers accesses in its place."""
        self._areas = areas
        self._allows_tables = indirect
        self._longest = min(num, CHAIN_MAX)
        self._table_max = max(self._longest, table_max)
        # By head or buffer id: IN_FLIGHT while the device has the chain, then the number of the batch that completes
        # it. Until that batch is published the driver must not make the chain available again.
        self._states = [FREE] * num
        self._batch = 1
        self._taken: deque[int] = deque(maxlen=num)  # heads in the order of taking, without those abandoned
        self._chains = self._calls = self._suppressed = self._returned = 0
        self._budget = NO_PACE  # units of work left in this turn
        self._shown = 0  # used entries (packed: descriptors) that the driver sees, without a decision about a call

    def getplain(self, limit: int, writable: bool, /) -> Plain:
        return NO_PLAIN

    def complete_read(self, chains: Sequence[tuple[int, int, int]], count: int, /) -> None:
        self.complete_each([(head, 0) for head, _, _ in chains[:count]])

    def getdescs(self, limit: int, /) -> list[Chain]:
        raise NotImplementedError

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        raise NotImplementedError

    def complete_batch(self, heads: Sequence[int], /) -> None:
        raise NotImplementedError

    def _use_batch(self, heads: Sequence[int]) -> None:
        """Mark the states of ``heads`` as completed by this batch. Raises LocalRingError if one is not in flight."""
        states = self._states
        for head in heads:
            if states[head] != IN_FLIGHT:
                raise LocalRingError(f"descriptor {head} was not taken")
        for head in heads:
            states[head] = self._batch
        self._returned += len(heads)

    def pace(self, work: int, /) -> None:
        self._budget = work

    def spend(self, work: int, /) -> None:
        self._budget -= work

    @property
    def paused(self) -> bool:
        return self._budget <= 0

    def _resolve(self, addr: Addr, size: int, writable: bool, into: list[memoryview]) -> None:
        """Append views of a descriptor's buffer to ``into``. Raises MemoryFault."""
        if not size:
            return
        try:
            into.append(self.memory.view(addr, size, writable))
        except MemoryFault:
            into.extend(self.memory.segments(addr, size, writable))

    def _table(self, head: int, addr: Addr, size: int) -> tuple[memoryview[Any], int]:
        """Return a private copy of an indirect table as 64-bit words, and its number of entries."""
        if not self._allows_tables:
            raise BadRing(f"chain {head}: indirect table without the feature", self.TABLE_SECTION)
        entries, odd = divmod(size, DESC_SIZE)
        if odd or not 1 <= entries <= self._table_max:
            raise BadRing(f"chain {head}: indirect table of {size} bytes", self.TABLE_SECTION)
        pieces: list[memoryview] = []
        self._resolve(addr, size, False, pieces)
        copy = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        return memoryview(copy).cast("Q"), entries

    def _writable_views(self, idents: Sequence[int], addrs: Sequence[Addr], sizes: Sequence[int]) -> list[memoryview]:
        """Return writable views of these buffers, adjoining ones merged.

        If any buffer is unreachable, returns [] and releases all of them.
        """
        views: list[memoryview] = []
        start = addrs[0]
        end: int = start
        try:
            for addr, size in zip(addrs, sizes, strict=True):
                if addr != end:
                    views.append(self.memory.view(start, end - start, True))
                    start = addr
                end = addr + size
            views.append(self.memory.view(start, end - start, True))
        except MemoryFault:
            for ident in idents:
                self._states[ident] = FREE
            return []
        return views

    def _untake(self, count: int) -> list[int]:
        """Release the ``count`` chains taken last. Returns their heads, the last one first.

        Raises LocalRingError, and releases none, if fewer were taken or one of them was completed.
        """
        taken, states = self._taken, self._states
        if not 0 <= count <= len(taken):
            raise LocalRingError(f"{count} chains abandoned, of {len(taken)} taken")
        heads: list[int] = []
        for _ in range(count):
            head = taken.pop()
            heads.append(head)
            if states[head] != IN_FLIGHT:
                taken.extend(reversed(heads))
                for other in heads[:-1]:
                    states[other] = IN_FLIGHT
                raise LocalRingError(f"{count} chains abandoned, but descriptor {head} among them was completed")
            states[head] = FREE
        self._chains -= count
        return heads

    def _count_publication(self, wanted: bool) -> bool:
        """End a batch; count its publication, and a call if ``wanted``. Returns ``wanted``."""
        self._batch += 1
        if wanted:
            self._calls += 1
        else:
            self._suppressed += 1
        return wanted

    def taken_last(self) -> Sequence[int]:
        """Return heads in the order in which chains were taken, without those abandoned: as many as the ring has
        descriptors, completed ones included. The last one is the chain of the number `statistics` counts, minus 1.
        """
        return self._taken

    def in_flight(self) -> list[int]:
        return [ident for ident, state in enumerate(self._states) if state == IN_FLIGHT]

    def latch(self) -> None:
        self.broken = True

    def reachable(self) -> bool:
        return self._areas.reachable()

    def close(self) -> None:
        self.latch()
        self._areas.close()

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(self._chains, self._returned, self._calls, self._suppressed)
