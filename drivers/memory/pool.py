"""The allocator of address ranges in memory that is shared with devices."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import attrs

__all__ = ["CACHE_LINE", "PAGE", "Extent", "Pool", "page_bytes"]

CACHE_LINE = 64
PAGE = 4096


def page_bytes(*sizes: int) -> int:
    """Return the maximum bytes that buffers of these sizes take, in whole pages."""
    return sum(-(-size // PAGE) * PAGE for size in sizes)


@attrs.frozen
class Extent:
    """An address range from ``start`` up to ``end``."""

    start: int
    end: int
    used: int
    """End of the part that may have been allocated before; the rest never was."""


class Pool:
    """First-fit allocator: whole cache lines, or whole pages for sizes of a page and more."""

    def __init__(self, base: int, size: int) -> None:
        """Manage ``size`` bytes from ``base``, both multiples of a cache line."""
        self.base = base
        self.size = size
        # Free extents as (start, end), ascending, never adjacent.
        self._free: list[tuple[int, int]] = [(base, base + size)] if size else []
        self._allocations: dict[int, int] = {}  # start: end
        self.peak = base
        """Highest end of all allocations so far."""

    def alloc(self, size: int, align: int = CACHE_LINE) -> Extent:
        """Return ``size`` bytes at a multiple of ``align`` (a power of two). No two extents share a cache line or page.

        Raises ValueError for an invalid request, MemoryError if there is no room.
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
                self._allocations[start] = end
                used, self.peak = min(end, self.peak), max(self.peak, end)
                return Extent(start, end, max(start, used))
        raise MemoryError(f"no room for {size} bytes at a multiple of {align}")

    def free(self, start: int) -> None:
        """Free the extent at ``start``. Raises ValueError if none is allocated there."""
        end = self._allocations.pop(start, None)
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
        """Number of allocated extents."""
        return len(self._allocations)

    @property
    def used(self) -> int:
        """Allocated bytes."""
        return sum(end - start for start, end in self._allocations.items())

    def check(self) -> None:
        """Assert that free and allocated extents tile the range exactly; for tests."""
        extents = sorted([*self._free, *self._allocations.items()])
        assert (extents[0][0], extents[-1][1]) == (self.base, self.base + self.size)
        assert all(a[1] == b[0] for a, b in pairwise(extents))
        assert all(a[1] < b[0] for a, b in pairwise(self._free)), "neighbouring free extents were not joined"
