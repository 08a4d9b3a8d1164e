"""Pinned typed views of a queue's areas, for either ring format."""

from __future__ import annotations

from rings.memory import Addr, Memory

__all__ = ["Areas"]


class Areas:
    """Views pinned in one memory and released together."""

    __slots__ = ("_memory", "_pins")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._pins: list[memoryview] = []

    def pin(self, addr: Addr, size: int, form: str) -> memoryview:
        """Return a typed view of ``size`` bytes. On MemoryFault, releases all views pinned so far."""
        try:
            view = self._memory.pin(addr, size, form)
        except BaseException:
            self.close()
            raise
        self._pins.append(view)
        return view

    def has_views(self) -> bool:
        """Return whether the memory pins plain views, which C can access."""
        return all(isinstance(view, memoryview) for view in self._pins)

    def reachable(self) -> bool:
        """Return whether the views may still be used."""
        try:
            return bool(self._pins) and all(map(len, self._pins))
        except ValueError:
            return False

    def close(self) -> None:
        """Release the views; any later access through them raises ValueError."""
        while self._pins:
            self._memory.unpin(self._pins.pop())
