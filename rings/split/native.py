"""Both sides of a split virtqueue with the plain path in C. Their state is that of the classes in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rings.chain import NO_PLAIN, Chain, Plain
from rings.errors import BadRing, QueueFull
from rings.layout import RingAddrs
from rings.memory import Addr, Memory
from rings.native import _rings
from rings.native.device import PlainFirst
from rings.sides import IN_FLIGHT
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh

__all__ = ["Descriptors", "DeviceState", "DriverState", "NativeSplitVirtqueue", "NativeSplitVringh"]

Views = tuple[memoryview, memoryview, memoryview]
"""Descriptors, available ring and used ring, as one side has pinned them."""
Descriptors = tuple[int, list[int | None], list[int]]
"""First free descriptor; tokens by head; the free descriptor behind each free one."""
DriverState = tuple[Views, tuple[int, int], Descriptors]
"""Views; available index and next used element; descriptors."""
DeviceState = tuple[Views, tuple[int, int, int], tuple[int, memoryview]]
"""Views; next available entry, available index last read, used index; address and view of the buffers' region."""


class NativeSplitVringh(PlainFirst, SplitVringh):
    """A device's side that moves batches of plain chains in C."""

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs, **settings: Any) -> None:
        super().__init__(memory, num, addrs, **settings)
        self.native = self._areas.has_views()
        self._last_writable = self._last_tables = False

    def getplain(self, limit: int, writable: bool, /) -> Plain:
        first = self._last_avail
        if self._budget <= 0 or self._backlog or (first == self._avail_end and not self._fetch_index()):
            return NO_PLAIN
        region = self._region(writable)
        if region is None:
            return NO_PLAIN
        base, view, _ = region
        count = min(limit, self._avail_end - first & 0xFFFF)
        chains = _rings.split_take(
            self._desc, self._avail, self._states, IN_FLIGHT, base, len(view), self.num, first, count,
            self._batch, writable,
        )  # fmt: skip
        self._taken.extend([head for head, _, _ in chains])
        self._last_avail = first + len(chains) & 0xFFFF
        self._chains += len(chains)
        return view, chains

    def _gettables(self, limit: int) -> list[Chain]:
        first = self._last_avail
        if self._budget <= 0 or self._backlog or (first == self._avail_end and not self._fetch_index()):
            return []
        region = self._region(False)
        if region is None or not self._allows_tables:
            return []
        chains, self._budget = _rings.split_tables(
            self._desc, self._avail, self._states, IN_FLIGHT, *region, self._table_max, self.num, first,
            min(limit, self._avail_end - first & 0xFFFF), self._batch, self._budget,
        )  # fmt: skip
        self._taken.extend([head for head, _, _ in chains])
        self._last_avail = first + len(chains) & 0xFFFF
        self._chains += len(chains)
        return chains

    def lend(self, writable: bool) -> DeviceState | None:
        """Return the state for C, which moves chains until `take_back`; None if that is not possible now."""
        if not self.native or self.broken or not self._event_idx or self._budget <= 0 or self._chains != self._returned:
            return None
        region = self._region(writable)
        if region is None or self._backlog or self._from_backlog or self._used != self._published:
            return None
        views = self._desc, self._avail, self._ring.used
        return views, (self._last_avail, self._avail_end, self._used), region[:2]

    def take_back(self, places: tuple[int, int, int], taken: Sequence[int], count: int, calls: int) -> None:
        """Continue at ``places``, as in `DeviceState`, behind ``count`` chains that C took and published one by one.

        ``taken`` are the heads of the last chains, as many as the ring has descriptors at most.
        """
        self._last_avail, self._avail_end, self._used = places
        self._published = self._used
        self._taken.extend(taken)
        self._chains += count
        self._returned += count
        self._batch += count
        self._calls += calls
        self._suppressed += count - calls

    def _is_drained(self) -> bool:
        return self._last_avail == self._avail_end

    def _complete(self, done: Sequence[tuple[int, ...]], count: int, unwritten: bool) -> bool:
        if not self.native or self._from_backlog:
            return False
        used = self._used
        if not _rings.split_complete(
            self._used_elems, self._states, IN_FLIGHT, self._batch, done, self.num, used, count, unwritten
        ):
            return False
        self._used = used + count & 0xFFFF
        self._returned += count
        return True


class NativeSplitVirtqueue(SplitVirtqueue):
    """A driver's side that moves batches of plain chains in C."""

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs, **settings: Any) -> None:
        super().__init__(memory, num, addrs, **settings)
        self.native = self._areas.has_views()

    def lend(self) -> DriverState | None:
        """Return the state for C, which moves chains until `take_back`; None if that is not possible now."""
        watched = getattr(self.publish, "__func__", None) is not SplitVirtqueue.publish
        if not self.native or watched or not self._event_idx or self._violation or self._in_order:
            return None
        if self._added != self._published:
            return None
        views = self._desc, self._avail, self._ring.used
        return views, (self._added, self._last_used), (self._free, self._tokens, self._next)

    def take_back(
        self, places: tuple[int, int], count: int, returned: int, kicks: int, descriptors: Descriptors | None = None
    ) -> None:
        """Continue at ``places``, as in `DriverState`, behind ``count`` chains that C added and published one by one.

        It got ``returned`` back. ``descriptors`` are those of a ring whose chains the device reads, if they changed.
        """
        self._added, self._last_used = places
        self._published, self._used_end = places
        self._chains += count
        self._returned += returned
        self._kicks += kicks
        self._suppressed += count - kicks
        if descriptors is not None:
            self._free, self._tokens[:], self._next[:] = descriptors
            self._counts[:], self._writable[:] = [1] * self.num, [0] * self.num
            self.num_free = self._tokens.count(None)

    def add_each(self, buffers: Sequence[tuple[Addr, int, int]], writable: bool, /) -> None:
        count = len(buffers)
        if count > self.num_free:
            raise QueueFull(f"{count} descriptors wanted, {self.num_free} free")
        if not self.native or not isinstance(buffers, list):
            return super().add_each(buffers, writable)
        added = self._added
        head = _rings.split_add(
            self._desc, self._avail, buffers, self._writable, self._counts, self._tokens, self._next, self.num,
            self._free, added, writable,
        )  # fmt: skip
        if head is None:
            return super().add_each(buffers, writable)
        self._free = head
        self._added = added + count & 0xFFFF
        self.num_free -= count
        self._chains += count
        return None

    def get_each(self, limit: int, /) -> list[tuple[int, int]]:
        first = self._last_used
        if not self.native or self._violation is not None or self._in_order:
            return super().get_each(limit)
        if first == self._used_end and not self._fetch_index():
            return []
        count = min(limit, self._used_end - first & 0xFFFF)
        done, self._free = _rings.split_get(
            self._used_elems, self._writable, self._counts, self._tokens, self._next, self.num, first, count, self._free
        )  # fmt: skip
        taken = len(done)
        self.num_free += taken
        self._last_used = first + taken & 0xFFFF
        self._returned += taken
        if taken < count:
            try:
                done += super().get_each(limit - taken)
            except BadRing:
                if not done:
                    raise
        return done
