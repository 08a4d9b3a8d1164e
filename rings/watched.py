"""Any memory with a log of its accesses: it shows who stores which word in which order, and between which fences."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import cast, overload

import attrs

from rings.memory import Addr, Memory

__all__ = ["Access", "Act", "Watched"]


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
