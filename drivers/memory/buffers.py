"""A block of equal buffers in a host's memory, which its driver gives to a device one by one."""

from __future__ import annotations

from drivers.contracts.hw import DmaBuffer, DmaMemory
from drivers.memory.pool import CACHE_LINE, PAGE, page_bytes
from rings.memory import Addr

__all__ = ["BufferBlock", "block_memory"]


def block_memory(count: int, size: int) -> int:
    """Bytes of memory that `BufferBlock` takes at most."""
    return page_bytes(count * _pitch(size))


def _pitch(size: int) -> int:
    """Bytes from one buffer to the next."""
    return -(-size // CACHE_LINE) * CACHE_LINE


class BufferBlock:
    """``count`` buffers of ``size`` bytes, each on cache lines of its own and seen through one view until `close`."""

    def __init__(self, dma: DmaMemory, count: int, size: int) -> None:
        """Raises MemoryError."""
        self._dma = dma
        pitch = _pitch(size)
        self._block: DmaBuffer = dma.alloc(count * pitch, PAGE)
        self.size = size
        self.addrs = [Addr(self._block.addr + i * pitch) for i in range(count)]
        self.views = [dma.pin(addr, size, "B") for addr in self.addrs]

    def close(self) -> None:
        """Release the views and give the memory back; the device must not reach it any more."""
        for view in self.views:
            self._dma.unpin(view)
        self._dma.free(self._block)
