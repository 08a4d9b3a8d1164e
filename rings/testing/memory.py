"""Memories that tell on whoever uses them: canaries around what was granted, a log of every access, a liar."""

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
    """Memory that is granted range by range, with a page of canaries before and behind each."""

    def __init__(self, size: int = 1 << 18, base: int = 0x10_0000) -> None:
        """``size``: bytes of the whole, canaries included."""
        super().__init__()
        self._origin = base
        self._whole = bytearray(CANARY * size)
        self._grants: list[tuple[int, int]] = []  # offset and end, ascending

    def grant(self, size: int, align: int = 64, *, adjoining: bool = False) -> Addr:
        """``size`` zeroed bytes that may be accessed from now on; ``adjoining``: right behind the last grant.

        Raises ValueError when the whole is used up.
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
        """The three areas of a ring, each aligned just as it has to be and no better."""
        sizes, align = (packed_sizes(num), PACKED_ALIGN) if packed else (split_sizes(num), SPLIT_ALIGN)
        return RingAddrs(*(self.grant(n, a) for n, a in zip(sizes, align, strict=True)))

    def check(self) -> None:
        """Raises AssertionError where a byte that was not granted has changed."""
        edges = [0, *(edge for grant in self._grants for edge in grant), len(self._whole)]
        for low, high in zip(edges[::2], edges[1::2], strict=True):
            if self._whole[low:high] != CANARY * (high - low):
                raise AssertionError(
                    f"written outside of every grant, in {high - low} bytes at {self._origin + low:#x}"
                )


class Act(Enum):
    """What was done to a watched memory."""

    LOAD = "load"
    """One word of a ring was read."""
    STORE = "store"
    """One word of a ring was written."""
    READ = "read"
    """Bytes were lent to be read."""
    WRITE = "write"
    """Bytes were lent to be written."""
    FENCE = "fence"


@attrs.frozen
class Access:
    """One access: ``size`` bytes at ``addr``."""

    act: Act
    addr: int = 0
    size: int = 0

    def within(self, start: int, size: int) -> bool:
        return start <= self.addr and self.addr + self.size <= start + size


class _Words:
    """Stands in for a pinned view: what rings do with one (index, slice, len), each access told."""

    def __init__(self, view: memoryview, addr: int, tell: Callable[[Access], None]) -> None:
        self.view = view
        self._addr, self._size, self._tell = addr, view.itemsize, tell

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
        self._tell(Access(Act.LOAD, self._addr + self._size * index, self._size))
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self.view[index] = value
        self._tell(Access(Act.STORE, self._addr + self._size * index, self._size))


class Watched:
    """Any memory, with a log: every word loaded or stored, every range lent, every fence, in order.

    Byte views that are pinned (form B) are payload: told once, when they are lent.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.log: list[Access] = []

    def tell(self, access: Access) -> None:
        """Called when an access is done; a subclass may meddle with the memory now."""
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
        held: object = view
        self.memory.unpin(held.view if isinstance(held, _Words) else view)

    def fence(self) -> None:
        self.memory.fence()
        self.tell(Access(Act.FENCE))


class Changing(Watched):
    """A memory that never says the same thing twice: the worst time of check, time of use.

    A word is turned into its complement as soon as it was loaded; bytes lent to be read are, as soon as
    anything else is accessed.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self._lent: list[Access] = []

    def tell(self, access: Access) -> None:
        super().tell(access)
        for lent in self._lent:
            self._turn(lent)
        self._lent.clear()
        if access.act is Act.LOAD:
            self._turn(access)
        elif access.act is Act.READ:
            self._lent.append(access)

    def _turn(self, access: Access) -> None:
        for view in self.memory.segments(Addr(access.addr), access.size, True):
            view[:] = bytes(byte ^ 0xFF for byte in view)
