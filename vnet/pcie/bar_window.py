"""Memory in a BAR: what an endpoint shows there of a third host, and how the root complex reaches it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from rings.errors import MemoryFault
from rings.memory import Addr, PciAddr
from vnet.link.base import Region, Window
from vnet.linux.memory import full_fence
from vnet.pcie.outbound import Outbound

__all__ = ["BarMemory", "BarWindow", "find_regions"]


@attrs.frozen
class BarMemory:
    """``size`` bytes at ``addr`` behind another link of this host, reached through ``window``."""

    window: Outbound
    addr: PciAddr
    size: int


def find_regions(memories: Sequence[tuple[int, BarMemory]], addr: int, size: int) -> list[Region]:
    """The memory itself in that range of addresses on the link; each of ``memories`` starts at its own there."""
    found = []
    for start, memory in memories:
        if addr >= start + memory.size or start >= addr + size:
            continue
        for base, view in memory.window.memory.regions():
            # From addresses behind the other link to addresses on this one.
            at = base - memory.addr + start
            low, high = max(addr, at, start), min(addr + size, at + len(view), start + memory.size)
            if low < high:
                found.append((Addr(low), view[low - at : high - at]))
    return found


class BarWindow:
    """A window over a BAR, at addresses of its user's choice: ``delta`` less than those on the link.

    An access costs one call more than on the link's own window (about 50 ns); bounds are the window's.
    """

    def __init__(self, window: Window, delta: int) -> None:
        self._view = window.view
        self._window = window
        self._delta = delta

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        try:
            return self._view(Addr(addr + self._delta), size, writable)
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
        """The same, with the address that its user knows."""
        return type(fault)(fault.addr - self._delta, fault.size, write=fault.write, reason=fault.reason)
