"""A BAR backed by RAM of the endpoint's host. The other host loads and stores there without a notification."""

from __future__ import annotations

from drivers.contracts.hw import DmaBuffer
from rings.memory import Addr, Memory

__all__ = ["BarRam"]


class BarRam:
    """Implements `drivers.contracts.hw.RegisterBlock`."""

    def __init__(self, memory: Memory, buffer: DmaBuffer) -> None:
        """Raises ValueError if the size is no power of two: a larger BAR would expose memory behind the buffer."""
        if buffer.size & (buffer.size - 1):
            raise ValueError(f"a RAM BAR of {buffer.size} bytes: the size must be a power of two")
        self._memory = memory
        self._buffer = buffer

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._at(offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._at(offset, size)[:] = value.to_bytes(size, "little")

    def _at(self, offset: int, size: int) -> memoryview:
        return self._memory.view(Addr(self._buffer.addr + offset), size, True)
