"""What the two formats share of each side: what is in flight, what is counted, and what no chain may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from rings.areas import Areas
from rings.batch import BatchVringh
from rings.errors import BadRing, LocalRingError, MemoryFault, QueueFull
from rings.layout import DESC_SIZE, WRITE
from rings.memory import Addr, Memory
from rings.queue import QueueStatistics, Segment

__all__ = ["FREE", "IN_FLIGHT", "MAX_CHAIN_BYTES", "MAX_SEGMENT", "DeviceSide", "DriverSide"]

MAX_CHAIN_BYTES = 1 << 32
CHAIN_MAX = 8192
"""Descriptors of the longest chain that a device's side accepts, in rings of more: it takes some 5 ms to follow one."""
NO_PACE = 1 << 62
MAX_SEGMENT = 0xFFFF_FFFF
"""Bytes that the length field of a descriptor holds."""
FREE, IN_FLIGHT = 0, 1 << 62
"""Below and above the number of every batch of completed chains."""
T = TypeVar("T")


class DriverSide(Generic[T]):
    """The driver's books. Lengths and tokens of what is in flight are its own: no descriptor is ever read back."""

    def __init__(
        self, memory: Memory, areas: Areas, indirect: Addr | None, indirect_max: int, num: int, lenient: bool
    ) -> None:
        """``indirect`` is the address of ``num`` tables of ``indirect_max`` descriptors. Raises MemoryFault."""
        self.num = num
        self.num_free = num
        self._memory = memory
        self._areas = areas
        self._lenient = lenient
        self._tables: memoryview | None = None
        self._indirect, self._indirect_max = indirect, min(indirect_max, num)
        if indirect is not None:
            self._tables = areas.pin(indirect, num * self._indirect_max * DESC_SIZE, "Q")
        # By head or buffer id: what is in flight.
        self._tokens: list[T | None] = [None] * num
        self._taken = [0] * num  # descriptors of the ring that the chain takes
        self._writable = [0] * num  # bytes the device may write
        self._bad: str | None = (
            None  # why the ring is bad; not the exception, whose traceback each raise would lengthen
        )
        self._kicks = self._suppressed = self._chains = self._returned = self._bad_lengths = 0

    def _segments(
        self, readable: Sequence[Segment], writable: Sequence[Segment]
    ) -> tuple[list[tuple[Addr, int, int]], bool]:
        """(address, bytes, flags) of each descriptor of a chain, and whether they go to an indirect table.

        Raises LocalRingError for what no chain may be, QueueFull where there is no room now.
        """
        segs = [*((addr, size, 0) for addr, size in readable), *((addr, size, WRITE) for addr, size in writable)]
        count = len(segs)
        if not count:
            raise LocalRingError("a chain needs at least one descriptor")
        sizes = [size for _, size, _ in segs]
        if sum(sizes) > MAX_CHAIN_BYTES or max(sizes) > MAX_SEGMENT:
            raise LocalRingError("a chain may not have more than 2^32 bytes, nor a segment of it as many")
        in_table = self._tables is not None and 1 < count <= self._indirect_max
        if count > self.num and not in_table:
            raise LocalRingError(f"a chain of {count} descriptors does not fit a queue of {self.num}")
        if (wanted := 1 if in_table else count) > self.num_free:
            raise QueueFull(f"{wanted} descriptors wanted, {self.num_free} free")
        return segs, in_table

    def _told(self, wanted: bool) -> bool:
        """Count a publication and whether the device has to be kicked for it."""
        if wanted:
            self._kicks += 1
        else:
            self._suppressed += 1
        return wanted

    def get(self) -> tuple[T, int] | None:
        done = self.get_each(1)
        return done[0] if done else None

    def get_each(self, limit: int, /) -> list[tuple[T, int]]:
        raise NotImplementedError

    def _bad_length(self, ident: int) -> int:
        """What counts as written where the device claims to have written more than there is room for."""
        self._bad_lengths += 1
        return self._writable[ident] if self._lenient else 0

    def detach_unused(self) -> Iterator[T]:
        for ident, token in enumerate(self._tokens):
            if token is not None:
                self._tokens[ident] = None
                yield token

    def reachable(self) -> bool:
        return self._areas.reachable()

    def close(self) -> None:
        self._areas.close()

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(self._chains, self._returned, self._kicks, self._suppressed, self._bad_lengths)


class DeviceSide(BatchVringh):
    """The device's books. Everything it reads may be a lie, and is read once."""

    def __init__(self, memory: Memory, areas: Areas, num: int, indirect: bool, table_max: int) -> None:
        """``table_max``: descriptors of a chain with an indirect table that are accepted even if the ring has fewer.

        A driver may not build a chain longer than the ring (sections 2.7.5.3.1, 2.8.17), but Linux's do where the
        device's configuration promises more segments.
        """
        self.num = num
        self.broken = False
        self._memory = memory
        self._areas = areas
        self._allows_tables = indirect
        self._longest = min(num, CHAIN_MAX)
        self._table_max = max(self._longest, table_max)
        # By head or buffer id: IN_FLIGHT while the device has it, then the batch with which it is shown as used. Until
        # that batch is published the driver can't know, and must not make it available again.
        self._taken = [FREE] * num
        self._batch = 1
        self._chains = self._calls = self._suppressed = self._returned = 0
        self._left = NO_PACE  # work until the turn ends

    def pace(self, work: int, /) -> None:
        self._left = work

    def spend(self, work: int, /) -> None:
        self._left -= work

    @property
    def paused(self) -> bool:
        return self._left <= 0

    def _resolve(self, addr: Addr, size: int, writable: bool, into: list[memoryview]) -> None:
        """Append what a descriptor points to. Raises MemoryFault."""
        if not size:
            return
        try:
            into.append(self._memory.view(addr, size, writable))
        except MemoryFault:
            into.extend(self._memory.segments(addr, size, writable))

    def _table(self, head: int, addr: Addr, size: int) -> tuple[memoryview[Any], int]:
        """A private copy of an indirect table as 64-bit words, and its number of entries."""
        if not self._allows_tables:
            raise BadRing(f"chain {head}: indirect table without the feature")
        entries, odd = divmod(size, DESC_SIZE)
        if odd or not 1 <= entries <= self._table_max:
            raise BadRing(f"chain {head}: indirect table of {size} bytes")
        pieces: list[memoryview] = []
        self._resolve(addr, size, False, pieces)
        copy = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        return memoryview(copy).cast("Q"), entries

    def _lent(self, idents: Sequence[int], addrs: Sequence[Addr], sizes: Sequence[int]) -> list[memoryview]:
        """Views to write into of so many bytes each, those that adjoin as one; none where one can't be reached.

        Then they are not taken any more either.
        """
        views: list[memoryview] = []
        start = addrs[0]
        end: int = start
        try:
            for addr, size in zip(addrs, sizes, strict=True):
                if addr != end:
                    views.append(self._memory.view(start, end - start, True))
                    start = addr
                end = addr + size
            views.append(self._memory.view(start, end - start, True))
        except MemoryFault:
            for ident in idents:
                self._taken[ident] = FREE
            return []
        return views

    def _given_up(self, ident: int) -> None:
        """Note that a chain goes back untouched. Raises LocalRingError where it was not taken."""
        if self._taken[ident] != IN_FLIGHT:
            raise LocalRingError(f"descriptor {ident} was not taken")
        self._taken[ident] = FREE
        self._chains -= 1

    def _told(self, wanted: bool) -> bool:
        """Count a publication and whether the driver has to be called for it."""
        self._batch += 1
        if wanted:
            self._calls += 1
        else:
            self._suppressed += 1
        return wanted

    def held(self) -> list[int]:
        return [ident for ident, batch in enumerate(self._taken) if batch == IN_FLIGHT]

    def latch(self) -> None:
        self.broken = True

    def reachable(self) -> bool:
        return self._areas.reachable()

    def close(self) -> None:
        self.latch()
        self._areas.close()

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(self._chains, self._returned, self._calls, self._suppressed)
