"""Memories for tests: one with canaries, one with a log of all accesses, one that changes under its reader."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import cast, overload

import attrs

from rings.layout import PACKED_ALIGN, SPLIT_ALIGN, RingAddrs, packed_sizes, split_sizes
from rings.memory import Addr, MappedMemory, Memory

__all__ = ["Access", "Act", "Changing", "Guarded", "Watched"]

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


class Act(Enum):
    """Kind of access to a watched memory."""

    LOAD = "load"
    """Read of a ring word."""
    STORE = "store"
    """Write of a ring word."""
    READ = "read"
    """Readable view of bytes."""
    WRITE = "write"
    """Writable view of bytes."""
    FENCE = "fence"


@attrs.frozen
class Access:
    """An access to ``size`` bytes at ``addr``."""

    act: Act
    addr: int = 0
    size: int = 0

    def within(self, start: int, size: int) -> bool:
        return start <= self.addr and self.addr + self.size <= start + size


class _Words:
    """A stand-in for a pinned view that reports each access. Supports indexing, slicing and len, as rings use them."""

    def __init__(self, view: memoryview, addr: int, report: Callable[[Access], None]) -> None:
        self.view = view
        self._addr, self._size, self._report = addr, view.itemsize, report

    def __len__(self) -> int:
        return len(self.view)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        value: int = self.view[index]
        self._report(Access(Act.LOAD, self._addr + self._size * index, self._size))
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self.view[index] = value
        self._report(Access(Act.STORE, self._addr + self._size * index, self._size))


class Watched:
    """Any memory, with a log of all loads and stores of words, all views of ranges, and all fences, in order.

    Pinned byte views (form B) are payload: logged once, when they are pinned.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.log: list[Access] = []

    def tell(self, access: Access) -> None:
        """Log an access, after it is done; a subclass may change the memory here."""
        self.log.append(access)

    def acts(self, act: Act) -> list[Access]:
        return [access for access in self.log if access.act is act]

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        view = self.memory.view(addr, size, writable)
        self.tell(Access(Act.WRITE if writable else Act.READ, addr, size))
        return view

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = self.memory.segments(addr, size, writable)
        self.tell(Access(Act.WRITE if writable else Act.READ, addr, size))
        return views

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        view = self.memory.pin(addr, size, form)
        if form == "B":
            self.tell(Access(Act.WRITE, addr, size))
            return view
        return cast("memoryview", _Words(view, addr, self.tell))

    def unpin(self, view: memoryview, /) -> None:
        words: object = view
        self.memory.unpin(words.view if isinstance(words, _Words) else view)

    def fence(self) -> None:
        self.memory.fence()
        self.tell(Access(Act.FENCE))


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
