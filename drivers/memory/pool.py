"""Which parts of a range of addresses are taken: the allocator behind memory that is shared with devices."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import attrs

__all__ = ["CACHE_LINE", "PAGE", "Extent", "Pool", "page_bytes"]

CACHE_LINE = 64
PAGE = 4096


def page_bytes(*sizes: int) -> int:
    """Bytes that buffers of these sizes take at most, wherever they come to lie: whole pages."""
    return sum(-(-size // PAGE) * PAGE for size in sizes)


@attrs.frozen
class Extent:
    """Addresses from ``start`` up to ``end``."""

    start: int
    end: int
    used: int
    """Up to here it may have been handed out before; from there on nobody ever had it."""


class Pool:
    """The lowest place that is free, in whole cache lines, and in whole pages from one page up."""

    def __init__(self, base: int, size: int) -> None:
        """``size`` bytes; both are multiples of a cache line."""
        self.base = base
        self.size = size
        # Free extents as (start, end), ascending, never touching one another.
        self._free: list[tuple[int, int]] = [(base, base + size)] if size else []
        self._taken: dict[int, int] = {}
        self.peak = base
        """The highest end that was ever handed out."""

    def alloc(self, size: int, align: int = CACHE_LINE) -> Extent:
        """``size`` bytes at a multiple of ``align`` (a power of two), so that no two share a cache line or page.

        Raises ValueError for an impossible request and MemoryError when there is no room.
        """
        if size <= 0 or align <= 0 or align & (align - 1):
            raise ValueError(f"can't allocate {size} bytes at a multiple of {align}")
        granule = PAGE if size >= PAGE else CACHE_LINE
        align = max(align, granule)
        room = -(-size // granule) * granule
        for at, (low, high) in enumerate(self._free):
            start = -(-low // align) * align
            end = start + room
            if end <= high:
                self._free[at : at + 1] = [part for part in ((low, start), (end, high)) if part[0] < part[1]]
                self._taken[start] = end
                used, self.peak = min(end, self.peak), max(self.peak, end)
                return Extent(start, end, max(start, used))
        raise MemoryError(f"no room for {size} bytes at a multiple of {align}")

    def free(self, start: int) -> None:
        """Give it back. Raises ValueError where it is not allocated (any more)."""
        end = self._taken.pop(start, None)
        if end is None:
            raise ValueError(f"{start:#x} is not the start of an allocated buffer")
        at = bisect_left(self._free, (start, end))
        if at < len(self._free) and self._free[at][0] == end:
            end = self._free.pop(at)[1]
        if at > 0 and self._free[at - 1][1] == start:
            at -= 1
            start = self._free.pop(at)[0]
        self._free.insert(at, (start, end))

    @property
    def buffers(self) -> int:
        """How many are allocated."""
        return len(self._taken)

    @property
    def used(self) -> int:
        """Bytes that are allocated."""
        return sum(end - start for start, end in self._taken.items())

    def check(self) -> None:
        """Assert that free and allocated extents tile the range exactly; for tests."""
        extents = sorted([*self._free, *self._taken.items()])
        assert (extents[0][0], extents[-1][1]) == (self.base, self.base + self.size)
        assert all(a[1] == b[0] for a, b in pairwise(extents))
        assert all(a[1] < b[0] for a, b in pairwise(self._free)), "neighbouring free extents were not joined"
