"""A third host's memory in a BAR: the endpoint's mapping, and the root complex's window over it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from rings.errors import MemoryFault
from rings.memory import Addr, PciAddr, part_of
from vnet.link.base import Region, Window
from vnet.linux.memory import full_fence
from vnet.pcie.outbound import Outbound

__all__ = ["BarMemory", "BarWindow", "find_regions"]


@attrs.frozen
class BarMemory:
    """``size`` bytes at ``addr`` behind another link of this host, accessed through ``window``."""

    window: Outbound
    addr: PciAddr
    size: int


def find_regions(memories: Sequence[tuple[int, BarMemory]], addr: int, size: int) -> list[Region]:
    """Return the memory regions in a range of link addresses; ``memories`` are (link address, memory) pairs."""
    found_regions = []
    for start, memory in memories:
        if addr >= start + memory.size or start >= addr + size:
            continue
        for base, view in memory.window.memory.regions():
            # Translate addresses behind the other link to addresses on this one.
            at = base - memory.addr + start
            low, high = max(addr, at, start), min(addr + size, at + len(view), start + memory.size)
            if low < high:
                found_regions.append((Addr(low), part_of(view, low - at, high - at)))
    return found_regions


class BarWindow:
    """A window over a BAR at local addresses: link addresses minus ``delta``.

    An access costs one call more than on the link's own window (about 50 ns). The link's window checks the bounds.
    """

    def __init__(self, window: Window, delta: int) -> None:
        self._window = window
        self._delta = delta

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        try:
            return self._window.view(Addr(addr + self._delta), size, writable)
        except MemoryFault as fault:
            raise self._local(fault) from None

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        try:
            return self._window.segments(Addr(addr + self._delta), size, writable)
        except MemoryFault as fault:
            raise self._local(fault) from None

    def pin(self, addr: Addr, size: int, form: str, /) -> memoryview:
        try:
            return self._window.pin(Addr(addr + self._delta), size, form)
        except MemoryFault as fault:
            raise self._local(fault) from None

    def unpin(self, view: memoryview, /) -> None:
        self._window.unpin(view)

    def fence(self) -> None:
        full_fence()

    def _local(self, fault: MemoryFault) -> MemoryFault:
        """Return the fault with its local address."""
        return type(fault)(fault.addr - self._delta, fault.size, write=fault.write, reason=fault.reason)
