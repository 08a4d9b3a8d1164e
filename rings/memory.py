"""Memory is an argument: rings are handed something that turns an address into a view, or faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import NewType, Protocol

from rings.errors import MemoryFault

__all__ = ["Addr", "MappedMemory", "Memory", "PciAddr", "PhysAddr", "was_released"]

Addr = NewType("Addr", int)
"""An address as it stands in a ring: whatever the bus between the two sides understands."""
PhysAddr = NewType("PhysAddr", Addr)
"""An address in one host."""
PciAddr = NewType("PciAddr", Addr)
"""An address on the link."""

ADDRESS_END = 1 << 64


def was_released(error: ValueError) -> bool:
    """Whether ``error`` comes from a view that was released. Python raises the same class for any bad value."""
    return "released memoryview" in str(error)


class Memory(Protocol):
    """What one side of a ring can reach. Views are only valid until the next await: never keep one."""

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        """The ``size`` bytes at ``addr`` as one byte view.

        Raises MemoryFault where any byte of it can't be reached, or no single view covers it.
        """

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        """The same for a range that may straddle neighbouring regions: byte views, in order, none empty."""

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        """A typed view (``form`` as in struct: B, H, I or Q) that may be kept until `unpin`.

        The memory remembers it and releases it when the range goes away, so that stale use raises a ValueError
        (see `was_released`) instead of touching memory. Raises MemoryFault like `view`.
        """

    def unpin(self, view: memoryview, /) -> None:
        """Release a view that `pin` gave; harmless when it was released before."""

    def fence(self) -> None:
        """A full memory barrier: stores before it are visible before loads after it are done."""


class _Region:
    __slots__ = ("base", "pins", "size", "view", "writable")

    def __init__(self, base: int, view: memoryview, writable: bool) -> None:
        self.base = base
        self.size = len(view)
        self.view = view
        self.writable = writable
        self.pins: dict[int, memoryview] = {}


def no_fence() -> None:
    """For a ring whose two sides run in one thread: program order is enough."""


class MappedMemory:
    """Address ranges backed by buffers: a host's RAM, a window onto it, or a test's bytearray."""

    def __init__(self, fence: Callable[[], None] = no_fence) -> None:
        self._regions: list[_Region] = []
        self._fault: Callable[[int, int, bool], MemoryFault] | None = None
        self.fence = fence
        # The region of the last access: nearly always the one of the next.
        self._base = 0
        self._size = -1
        self._view = memoryview(b"")
        self._writable = False

    def add(self, addr: Addr, buffer: memoryview, *, writable: bool = True) -> None:
        """Make ``buffer`` (a flat byte view) reachable at ``addr``. Raises ValueError where it overlaps."""
        if addr < 0 or addr + len(buffer) > ADDRESS_END:
            raise ValueError(f"region at {addr:#x} of {len(buffer)} bytes leaves the 64-bit address space")
        if any(addr < r.base + r.size and r.base < addr + len(buffer) for r in self._regions):
            raise ValueError(f"region at {addr:#x} overlaps one that is mapped")
        self._regions.append(_Region(addr, buffer, writable))
        self._regions.sort(key=lambda r: r.base)

    def remove(self, addr: Addr) -> None:
        """Take the region that starts at ``addr`` away and release what was pinned in it. Raises KeyError."""
        for at, region in enumerate(self._regions):
            if region.base == addr:
                del self._regions[at]
                self._forget(region)
                return
        raise KeyError(addr)

    def close(self, fault: Callable[[int, int, bool], MemoryFault] | None = None) -> None:
        """End all access: pinned views are released, and later calls raise ``fault(addr, size, write)``."""
        self._fault = fault
        while self._regions:
            self._forget(self._regions.pop())

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """(address, bytes) of every region, ascending."""
        return tuple((r.base, r.size) for r in self._regions)

    @property
    def pinned(self) -> int:
        """How many views are pinned now."""
        return sum(len(r.pins) for r in self._regions)

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        start = addr - self._base
        if 0 <= start and 0 <= size and start + size <= self._size and (self._writable or not writable):
            return self._view[start : start + size]
        region = self._find(addr, size, writable)
        if addr + size > region.base + region.size:
            raise self._fail(addr, size, writable, "the range crosses the end of its region")
        start = addr - region.base
        return region.view[start : start + size]

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = []
        while size > 0:
            region = self._find(addr, size, writable)
            start = addr - region.base
            part = min(size, region.size - start)
            views.append(region.view[start : start + part])
            addr, size = Addr(addr + part), size - part
        return views

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        typed = self.view(addr, size, True).cast(form)  # type: ignore[call-overload]
        self._find(addr, size, True).pins[id(typed)] = typed
        return typed  # type: ignore[no-any-return]

    def unpin(self, view: memoryview, /) -> None:
        for region in self._regions:
            if region.pins.pop(id(view), None) is not None:
                break
        view.release()

    def _find(self, addr: int, size: int, write: bool) -> _Region:
        for region in self._regions:
            if region.base <= addr < region.base + region.size:
                if write and not region.writable:
                    raise self._fail(addr, size, write, "the region is read-only")
                self._base, self._size = region.base, region.size
                self._view, self._writable = region.view, region.writable
                return region
        raise self._fail(addr, size, write, "no memory there")

    def _fail(self, addr: int, size: int, write: bool, reason: str) -> MemoryFault:
        if self._fault is not None:
            return self._fault(addr, size, write)
        return MemoryFault(addr, size, write=write, reason=reason)

    def _forget(self, region: _Region) -> None:
        for pinned in region.pins.values():
            pinned.release()
        region.pins.clear()
        region.view = memoryview(b"")
        self._size, self._view, self._writable = -1, memoryview(b""), False
