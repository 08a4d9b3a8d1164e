"""Outbound windows: the few ranges of the other host's memory that an endpoint controller reaches at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rings.errors import MemoryFault
from rings.memory import ADDRESS_END, Addr, PciAddr, PhysAddr, no_region
from rings.queue import Vringh
from vnet.link.base import Direction, Fault, Link, Window
from vnet.linux.memory import full_fence

__all__ = ["FunctionWindow", "Outbound", "OutboundPool"]


class Viewer(Protocol):
    """Memory that can be viewed."""

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview: ...


class _NoMemory:
    """The memory of a function without a window."""

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        raise MemoryFault(addr, size, write=writable, reason="no outbound window is mapped")


_NO_MEMORY = _NoMemory()


class WindowUser(Protocol):
    """A user of a mapped window."""

    def window_ended(self, window: Outbound) -> None:
        """Handle the end of ``window``, which is closed."""


class Outbound:
    """A mapped window; implements `drivers.contracts.hw.OutboundWindow`."""

    def __init__(
        self,
        link: Link,
        index: int,
        phys: int,
        addr: int,
        size: int,
        function: int,
        memory: Window,
        owner: FunctionWindow | None,
    ) -> None:
        self.link = link
        self.index = index
        self.phys = PhysAddr(Addr(phys))
        self.addr = PciAddr(Addr(addr))
        self.size = size
        self.function = function
        self.memory = memory
        self.owner = owner
        """The function window that mapped it on demand, and can lose it; None if `EndpointController` mapped it."""
        self._user: WindowUser | None = None

    def watch(self, user: WindowUser | None) -> None:
        """Report the end of the window to ``user``, once."""
        self._user = user

    def end(self, fault: Fault | None) -> None:
        """Close the window and report its end."""
        self.memory.close(fault)
        user, self._user = self._user, None
        if user is not None:
            user.window_ended(self)

    def covers(self, addr: int, size: int) -> bool:
        return self.addr <= addr and addr + size <= self.addr + self.size


class OutboundPool:
    """``count`` windows of up to ``size`` bytes at multiples of ``align``, both powers of two."""

    def __init__(self, link: Link, count: int, size: int, align: int, base: int) -> None:
        if count < 1 or align < 1 or align & (align - 1) or size & (size - 1) or size < align:
            raise ValueError(f"{count} outbound windows of {size} bytes at multiples of {align}: not possible")
        self._link = link
        self._base = base
        self.size = size
        self.align = align
        self._free = list(range(count))
        self._mapped: list[Outbound] = []
        """Mapped windows, the least recently used first."""

    @property
    def mapped(self) -> tuple[Outbound, ...]:
        return tuple(self._mapped)

    def map(self, addr: int, size: int, function: int, owner: FunctionWindow | None = None) -> Outbound:
        """Map a window over the range, extended to multiples of ``align``, on demand of ``owner`` if there is one.

        Raises ValueError if that is larger than a window, MemoryError without a free window, LinkDown.
        """
        low = addr & -self.align
        high = (addr + size + self.align - 1) & -self.align
        if size <= 0 or addr < 0 or high > ADDRESS_END or high - low > self.size:
            raise ValueError(f"no outbound window of {self.size} bytes covers {size} bytes at {addr:#x}")
        if not self._free:
            self._evict()
        memory = self._link.map(Direction.UPSTREAM, low, high - low, function)
        index = self._free.pop(0)
        phys = self._base + index * self.size
        window = Outbound(self._link, index, phys, low, high - low, function, memory, owner)
        self._mapped.append(window)
        return window

    def unmap(self, window: Outbound, fault: Fault | None = None) -> None:
        """Unmap ``window``. Raises ValueError if it is not mapped."""
        self._mapped.remove(window)
        self._free.append(window.index)
        window.end(fault)
        if window.owner is not None:
            window.owner.forget(window)

    def reach(self, addr: int, size: int, owner: FunctionWindow) -> Outbound:
        """Return the owner's window over the range, mapped now if necessary. Raises as `map` does."""
        for window in self._mapped:
            if window.owner is owner and window.covers(addr, size):
                self._mapped.remove(window)
                self._mapped.append(window)
                return window
        # The aligned window of maximum size around the address, unless the range crosses its end.
        low = addr & -self.size
        if addr + size > low + self.size:
            low = addr & -self.align
        room = min(self.size, ADDRESS_END - low)
        if addr + size > low + room:
            raise ValueError(f"no outbound window of {self.size} bytes covers {size} bytes at {addr:#x}")
        window = self.map(low, room, owner.function, owner)
        if not window.memory.regions():
            # Windows are few: an address without memory keeps none.
            self.unmap(window)
            raise ValueError("no memory there")
        return window

    def revoke(self, function: int, fault: Fault) -> None:
        """Close all windows of a function. Those mapped by `EndpointController` stay in use until unmapped."""
        for window in [w for w in self._mapped if w.function == function]:
            if window.owner is None:
                window.end(fault)
            else:
                self.unmap(window, fault)

    def _evict(self) -> None:
        for window in self._mapped:
            if window.owner is not None and not window.memory.pinned:
                self.unmap(window)
                return
        raise MemoryError("every outbound window is in use")


class FunctionWindow:
    """One function's access to the other host's memory: accesses map windows on demand.

    The last window is cached, so that nearly every access costs one call more than on the link's own
    window (about 50 ns). A view stays valid within a batch even if its window is evicted. The window's methods are
    looked up for each access, because rules of faults replace them.
    """

    def __init__(self, pool: OutboundPool, function: int, refusal: Callable[[], Fault | None]) -> None:
        """``refusal`` returns the fault that currently denies this function all access; None if it has access."""
        self._pool = pool
        self.function = function
        self._refusal = refusal
        self._fault: Fault | None = None
        self._pins: dict[int, tuple[memoryview, Outbound]] = {}
        self._current: Outbound | None = None
        self._memory: Viewer
        self._start: int
        self._end: int
        self.fence: Callable[[], None] = full_fence
        self._drop_current()

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        try:
            return self._memory.view(addr, size, writable)
        except MemoryFault:
            if self._start <= addr and addr + size <= self._end:
                raise
        return self._switch(addr, size, writable).memory.view(addr, size, writable)

    def region(self) -> tuple[int, memoryview, bool]:
        """Return the region that was accessed last, see `rings.memory.MappedMemory.region`."""
        region: Callable[[], tuple[int, memoryview, bool]] = getattr(self._memory, "region", no_region)
        return region()

    def observe(self, ring: Vringh) -> Vringh:
        """Return a device's side as the memory accessed last needs it, see `rings.formats.RingFormat.vringh`."""
        observe: Callable[[Vringh], Vringh] | None = getattr(self._memory, "observe", None)
        return ring if observe is None else observe(ring)

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        if self._start <= addr and addr + size <= self._end and self._current is not None:
            return self._current.memory.segments(addr, size, writable)
        views: list[memoryview] = []
        while size > 0:
            part = min(size, self._pool.size - addr % self._pool.align)
            views += self._switch(addr, part, writable).memory.segments(addr, part, writable)
            addr, size = Addr(addr + part), size - part
        return views

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        window = self._switch(addr, size, True)
        typed = window.memory.pin(addr, size, form)
        self._pins[id(typed)] = typed, window
        return typed

    def unpin(self, view: memoryview, /) -> None:
        _, window = self._pins.pop(id(view), (view, None))
        if window is None:
            view.release()
        else:
            window.memory.unpin(view)

    def end(self, fault: Fault) -> None:
        """Make every later access raise ``fault``."""
        self._fault = fault

    def forget(self, window: Outbound) -> None:
        """Drop a window that the pool unmapped; the link released its pinned views."""
        self._pins = {key: pin for key, pin in self._pins.items() if pin[1] is not window}
        if window is self._current:
            self._drop_current()

    def _switch(self, addr: int, size: int, write: bool) -> Outbound:
        fault = self._fault or self._refusal()
        if fault is not None:
            raise fault(addr, size, write)
        try:
            window = self._pool.reach(addr, size, self)
        except (MemoryError, ValueError) as error:
            raise MemoryFault(addr, size, write=write, reason=str(error)) from None
        self._current = window
        self._memory = window.memory
        self.fence = window.memory.fence
        self._start, self._end = window.addr, window.addr + window.size
        return window

    def _drop_current(self) -> None:
        self._current = None
        self._start, self._end = ADDRESS_END, 0
        self._memory = _NO_MEMORY
