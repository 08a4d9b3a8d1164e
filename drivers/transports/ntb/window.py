"""The virtio side's memory window: the vhost side can access nothing else, so all buffers are allocated in it."""

from __future__ import annotations

from drivers.contracts.hw import DmaBuffer, DmaMemory
from drivers.memory.pool import Pool
from rings.memory import Addr

__all__ = ["WindowDma"]

PIECE = 1 << 20
ZEROS = bytes(PIECE)


class WindowDma:
    """`drivers.contracts.hw.DmaMemory` that allocates in the window, behind the rings."""

    def __init__(self, memory: DmaMemory) -> None:
        self._memory = memory
        self._block: DmaBuffer | None = None
        self._pool = Pool(0, 0)
        self._closing = False
        """Whether the window is freed with its last buffer."""
        self.view = memory.view
        self.segments = memory.segments
        self.pin = memory.pin
        self.unpin = memory.unpin
        self.fence = memory.fence

    def open(self, size: int, reserved: int, align: int) -> bool:
        """Allocate a window of ``size`` bytes; buffers start after the first ``reserved`` bytes.

        Keeps an existing window with the same layout. Returns False if a different window still has buffers. Raises
        MemoryError.
        """
        self._closing = False
        if self._block is not None:
            if self._block.size == size and self._pool.base == self._block.addr + reserved:
                return True
            if not self.close():
                return False
        self._block = self._memory.alloc(size, align)
        self._pool = Pool(self._block.addr + reserved, size - reserved)
        return True

    def close(self) -> bool:
        """Free the window, which the vhost side must not access any more.

        Returns False while it has buffers: it is freed with the last one, unless it is opened again.
        """
        if self._pool.buffers:
            self._closing = True
            return False
        if self._block is not None:
            self._memory.free(self._block)
            self._block, self._pool = None, Pool(0, 0)
        return True

    @property
    def base(self) -> Addr:
        """Start address of the window."""
        assert self._block is not None
        return self._block.addr

    @property
    def used(self) -> int:
        """Bytes allocated."""
        return self._pool.used

    def alloc(self, size: int, align: int = 64) -> DmaBuffer:
        extent = self._pool.alloc(size, align)
        self.clear(extent.start, extent.used - extent.start)
        return DmaBuffer(Addr(extent.start), size)

    def free(self, buffer: DmaBuffer) -> None:
        self._pool.free(buffer.addr)
        if self._closing:
            self.close()

    def clear(self, start: int, size: int) -> None:
        """Fill ``size`` bytes with zeroes."""
        for at in range(start, start + size, PIECE):
            part = min(PIECE, start + size - at)
            self._memory.view(Addr(at), part, True)[:] = ZEROS[:part]
