"""A BAR that is RAM of the endpoint's host: the other host loads and stores there, and nobody is told."""

from __future__ import annotations

from drivers.contracts.hw import DmaBuffer
from rings.memory import Addr, Memory

__all__ = ["BarRam"]


class BarRam:
    """Implements `drivers.contracts.hw.RegisterBlock`."""

    def __init__(self, memory: Memory, buffer: DmaBuffer) -> None:
        """Raises ValueError for a size that no BAR can have: behind the buffer lies what is not the other host's."""
        if buffer.size & (buffer.size - 1):
            raise ValueError(f"a BAR of {buffer.size} bytes can't be RAM alone; it must be a power of two")
        self._memory = memory
        self._buffer = buffer

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._at(offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._at(offset, size)[:] = value.to_bytes(size, "little")

    def _at(self, offset: int, size: int) -> memoryview:
        return self._memory.view(Addr(self._buffer.addr + offset), size, True)
