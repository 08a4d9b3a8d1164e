"""Memories for tests: one with canaries, and one that changes under its reader."""

from __future__ import annotations

from rings.layout import PACKED_ALIGN, SPLIT_ALIGN, RingAddrs, packed_sizes, split_sizes
from rings.memory import Addr, MappedMemory, Memory
from rings.watched import Access, Act, Watched

__all__ = ["Changing", "Guarded"]

PAGE = 4096
CANARY = b"\xc5"


class Guarded(MappedMemory):
    """Memory granted range by range, with a page of canaries before and behind each."""

    def __init__(self, size: int = 1 << 18, base: int = 0x10_0000) -> None:
        """Allocate ``size`` bytes, including canaries."""
        super().__init__()
        self._origin = base
        self._whole = bytearray(CANARY * size)
        self._grants: list[tuple[int, int]] = []  # offset and end, ascending

    def grant(self, size: int, align: int = 64, *, adjoining: bool = False) -> Addr:
        """Return the address of ``size`` zeroed, accessible bytes; ``adjoining`` puts them right behind the last grant.

        Raises ValueError if no room is left.
        """
        end = self._grants[-1][1] if self._grants else 0
        start = end if adjoining else -(-(end + PAGE) // align) * align
        if start + size + PAGE > len(self._whole):
            raise ValueError(f"no room for another {size} bytes")
        self._whole[start : start + size] = bytes(size)
        self._grants.append((start, start + size))
        self.add(Addr(self._origin + start), memoryview(self._whole)[start : start + size])
        return Addr(self._origin + start)

    def grant_ring(self, num: int, packed: bool = False) -> RingAddrs:
        """Return the three areas of a ring, each with the minimum alignment."""
        sizes, align = (packed_sizes(num), PACKED_ALIGN) if packed else (split_sizes(num), SPLIT_ALIGN)
        return RingAddrs(*(self.grant(n, a) for n, a in zip(sizes, align, strict=True)))

    def check(self) -> None:
        """Raise AssertionError if a byte outside all grants changed."""
        edges = [0, *(edge for grant in self._grants for edge in grant), len(self._whole)]
        for low, high in zip(edges[::2], edges[1::2], strict=True):
            if self._whole[low:high] != CANARY * (high - low):
                raise AssertionError(
                    f"written outside of every grant, in {high - low} bytes at {self._origin + low:#x}"
                )


class Changing(Watched):
    """A memory that never reads the same twice: the worst case for time-of-check/time-of-use errors.

    A word is inverted right after its load; bytes of a readable view are inverted at the next access.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self._views: list[Access] = []

    def tell(self, access: Access) -> None:
        super().tell(access)
        for view in self._views:
            self._invert(view)
        self._views.clear()
        if access.act is Act.LOAD:
            self._invert(access)
        elif access.act is Act.READ:
            self._views.append(access)

    def _invert(self, access: Access) -> None:
        for view in self.memory.segments(Addr(access.addr), access.size, True):
            view[:] = bytes(byte ^ 0xFF for byte in view)
