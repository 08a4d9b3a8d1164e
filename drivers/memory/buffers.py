"""A block of equal-sized buffers in a host's memory, for its driver to add to a device's queue."""

from __future__ import annotations

from drivers.contracts.hw import DmaBuffer, DmaMemory
from drivers.memory.pool import CACHE_LINE, PAGE, page_bytes
from rings.memory import Addr

__all__ = ["BufferBlock", "block_memory"]


def block_memory(count: int, size: int) -> int:
    """Return the maximum bytes of memory of a `BufferBlock`."""
    return page_bytes(count * _pitch(size))


def _pitch(size: int) -> int:
    """Return the bytes from the start of one buffer to the next."""
    return -(-size // CACHE_LINE) * CACHE_LINE


class BufferBlock:
    """``count`` buffers of ``size`` bytes, each on its own cache lines, with a view pinned until `close`."""

    def __init__(self, dma: DmaMemory, count: int, size: int) -> None:
        """Allocate the block. Raises MemoryError."""
        self._dma = dma
        pitch = _pitch(size)
        self._block: DmaBuffer = dma.alloc(count * pitch, PAGE)
        self.size, self.pitch = size, pitch
        self.addrs = [Addr(self._block.addr + i * pitch) for i in range(count)]
        self.views = [dma.pin(addr, size, "B") for addr in self.addrs]
        self.block = dma.pin(self._block.addr, count * pitch, "B")

    def close(self) -> None:
        """Release the views and free the memory, which the device must not access any more."""
        for view in (*self.views, self.block):
            self._dma.unpin(view)
        self._dma.free(self._block)
