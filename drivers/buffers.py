"""A block of equal buffers in a host's memory, which its driver gives to a device one by one."""

from __future__ import annotations

from drivers.hw import DmaBuffer, DmaMemory
from rings.memory import Addr

__all__ = ["BufferBlock"]

PAGE, CACHE_LINE = 4096, 64


class BufferBlock:
    """``count`` buffers of ``size`` bytes, each on cache lines of its own and seen through one view until `close`."""

    def __init__(self, dma: DmaMemory, count: int, size: int) -> None:
        """Raises MemoryError."""
        self._dma = dma
        pitch = -(-size // CACHE_LINE) * CACHE_LINE
        self._block: DmaBuffer = dma.alloc(count * pitch, PAGE)
        self.size = size
        self.addrs = [Addr(self._block.addr + i * pitch) for i in range(count)]
        self.views = [dma.pin(addr, size, "B") for addr in self.addrs]

    def close(self) -> None:
        """Release the views and give the memory back; the device must not reach it any more."""
        for view in self.views:
            self._dma.unpin(view)
        self._dma.free(self._block)
