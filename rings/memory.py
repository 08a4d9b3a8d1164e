"""Memory that rings work on: it turns an address into a view, or raises `MemoryFault`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NewType, Protocol

from rings.errors import MemoryFault

__all__ = [
    "ADDRESS_END",
    "Addr",
    "MappedMemory",
    "Memory",
    "PciAddr",
    "PhysAddr",
    "RemoteBytes",
    "no_region",
    "part_of",
    "view_of",
    "was_released",
]

Addr = NewType("Addr", int)
"""An address in a ring, in the address space of the bus between the two sides."""
PhysAddr = NewType("PhysAddr", Addr)
"""A physical address of one host."""
PciAddr = NewType("PciAddr", Addr)
"""An address on the link."""

ADDRESS_END = 1 << 64
"""The address after the last one."""


def was_released(error: ValueError) -> bool:
    """Return whether ``error`` comes from a released view. Python raises the same class for any bad value."""
    return "released memoryview" in str(error)


class Memory(Protocol):
    """Memory reachable from one side of a ring. Views are only valid until the next await: never keep one."""

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        """Return the ``size`` bytes at ``addr`` as one byte view.

        Raises MemoryFault if any of these bytes is unreachable, or if no single view covers them.
        """

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        """Return the ``size`` bytes at ``addr``, which may straddle regions, as non-empty byte views in order."""

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        """Return a typed view (``form`` as in struct: B, H, I or Q) that may be kept until `unpin`.

        The memory releases it when the range is unmapped, so that stale use raises a ValueError (see `was_released`)
        instead of touching memory. Raises MemoryFault like `view`.
        """

    def unpin(self, view: memoryview, /) -> None:
        """Release a view from `pin`; harmless if it is released already."""

    def fence(self) -> None:
        """Execute a full memory barrier: stores before it become visible before loads after it are performed."""


class RemoteBytes(Protocol):
    """Memory that this process cannot map: each access is a request to its owner. Raises MemoryFault if that fails."""

    @property
    def readonly(self) -> bool: ...

    def __len__(self) -> int: ...

    def part(self, start: int, end: int) -> RemoteBytes:
        """Return a range of these bytes."""

    def copy(self, start: int, size: int, writable: bool) -> memoryview:
        """Return a copy of these bytes. The owner gets changes of a ``writable`` one before any later pinned write."""

    def pin(self, start: int, size: int, form: str) -> memoryview:
        """Return a stand-in for a typed view, whose every access is a request: it has items, slices and `release`."""

    def offset_of(self, pin: memoryview) -> int | None:
        """Return where the bytes of a pinned view begin in these; None if they are not among them."""


class _Region:
    __slots__ = ("base", "pins", "remote", "size", "view", "writable")

    def __init__(self, base: int, content: memoryview | RemoteBytes, writable: bool) -> None:
        self.base = base
        self.size = len(content)
        self.view = content if isinstance(content, memoryview) else memoryview(b"")
        self.remote = None if isinstance(content, memoryview) else content
        self.writable = writable
        self.pins: dict[int, memoryview] = {}

    @property
    def content(self) -> memoryview | RemoteBytes:
        return self.view if self.remote is None else self.remote


def part_of(content: memoryview | RemoteBytes, start: int, end: int) -> memoryview | RemoteBytes:
    """Return a range of the memory."""
    return content[start:end] if isinstance(content, memoryview) else content.part(start, end)


def view_of(content: memoryview | RemoteBytes, writable: bool) -> memoryview:
    """Return a view of all of the memory. Raises MemoryFault."""
    return content if isinstance(content, memoryview) else content.copy(0, len(content), writable)


def no_region() -> tuple[int, memoryview, bool]:
    """Return no region, for memory whose accesses must not go past its checks: see `MappedMemory.region`."""
    return 0, memoryview(b""), False


def no_fence() -> None:
    """Do nothing: program order is enough if both sides of a ring run in one thread."""


class MappedMemory:
    """Address ranges backed by buffers: a host's RAM, a window into it, or a test's bytearray."""

    def __init__(self, fence: Callable[[], None] = no_fence) -> None:
        self._regions: list[_Region] = []
        self._fault: Callable[[int, int, bool], MemoryFault] | None = None
        self.fence = fence
        # Cache of the last region accessed, which is nearly always the next one too.
        self._base = 0
        self._size = -1
        self._view = memoryview(b"")
        self._writable = False

    def add(self, addr: Addr, buffer: memoryview | RemoteBytes, *, writable: bool = True) -> None:
        """Map ``buffer``, a flat byte view or remote bytes, at ``addr``.

        Raises ValueError if it overlaps another region.
        """
        if addr < 0 or addr + len(buffer) > ADDRESS_END:
            raise ValueError(f"region at {addr:#x} of {len(buffer)} bytes leaves the 64-bit address space")
        if any(addr < r.base + r.size and r.base < addr + len(buffer) for r in self._regions):
            raise ValueError(f"region at {addr:#x} overlaps a mapped one")
        self._regions.append(_Region(addr, buffer, writable))
        self._regions.sort(key=lambda r: r.base)

    def remove(self, addr: Addr) -> None:
        """Unmap the region that starts at ``addr`` and release the views pinned in it. Raises KeyError."""
        for at, region in enumerate(self._regions):
            if region.base == addr:
                del self._regions[at]
                self._forget(region)
                return
        raise KeyError(addr)

    def close(self, fault: Callable[[int, int, bool], MemoryFault] | None = None) -> None:
        """Unmap all regions and release pinned views; later calls raise ``fault(addr, size, write)``."""
        self._fault = fault
        while self._regions:
            self._forget(self._regions.pop())

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Address and bytes of every region, ascending."""
        return tuple((r.base, r.size) for r in self._regions)

    def contents(self, addr: int, size: int) -> list[tuple[Addr, memoryview | RemoteBytes]]:
        """Return the memory in a range, as its address and its bytes; this is no access."""
        ranges = [(r, max(addr, r.base), min(addr + size, r.base + r.size)) for r in self._regions]
        return [
            (Addr(low), part_of(region.content, low - region.base, high - region.base))
            for region, low, high in ranges
            if low < high
        ]

    @property
    def pinned(self) -> int:
        """Number of pinned views."""
        return sum(len(r.pins) for r in self._regions)

    def region(self) -> tuple[int, memoryview, bool]:
        """Return address, view, and whether it is writable, of the region that was accessed last; 0 bytes before that.

        As with `view`, the view is valid until the next await.
        """
        return self._base, self._view, self._writable

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        start = addr - self._base
        end = start + size
        if 0 <= start <= end <= self._size and (self._writable or not writable):
            return self._view[start:end]
        region = self._find(addr, size, writable)
        if addr + size > region.base + region.size:
            raise self._fail(addr, size, writable, "the range crosses the end of its region")
        start = addr - region.base
        if region.remote is not None:
            return region.remote.copy(start, size, writable)
        return region.view[start : start + size]

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = []
        while size > 0:
            region = self._find(addr, size, writable)
            start = addr - region.base
            part = min(size, region.size - start)
            if region.remote is not None:
                views.append(region.remote.copy(start, part, writable))
            else:
                views.append(region.view[start : start + part])
            addr, size = Addr(addr + part), size - part
        return views

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        region = self._find(addr, size, True)
        if region.remote is not None and addr + size <= region.base + region.size:
            typed = region.remote.pin(addr - region.base, size, form)
        else:
            typed = self.view(addr, size, True).cast(form)  # type: ignore[call-overload]
        region.pins[id(typed)] = typed
        return typed

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
                if region.remote is None:
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
