"""The virtio side's memory window: all that the other host reaches of this one, and so where buffers come from."""

from __future__ import annotations

from drivers.contracts.hw import DmaBuffer, DmaMemory
from drivers.memory.pool import Pool
from rings.memory import Addr

__all__ = ["WindowDma"]

PIECE = 1 << 20
ZEROS = bytes(PIECE)


class WindowDma:
    """Implements `drivers.contracts.hw.DmaMemory`: whatever is allocated lies in the window, behind the rings."""

    def __init__(self, memory: DmaMemory) -> None:
        self._memory = memory
        self._block: DmaBuffer | None = None
        self._pool = Pool(0, 0)
        self.view = memory.view
        self.segments = memory.segments
        self.pin = memory.pin
        self.unpin = memory.unpin
        self.fence = memory.fence

    def open(self, size: int, reserved: int, align: int) -> bool:
        """Have a window of ``size`` bytes, the first ``reserved`` of which are no buffers.

        The one that is there already stays where it is, if it is like that. False while a different one is still in
        use. Raises MemoryError.
        """
        if self._block is not None:
            if self._block.size == size and self._pool.base == self._block.addr + reserved:
                return True
            if not self.close():
                return False
        self._block = self._memory.alloc(size, align)
        self._pool = Pool(self._block.addr + reserved, size - reserved)
        return True

    def close(self) -> bool:
        """Give the window up; False while something in it is allocated. The other host must not reach it any more."""
        if self._pool.buffers:
            return False
        if self._block is not None:
            self._memory.free(self._block)
            self._block, self._pool = None, Pool(0, 0)
        return True

    @property
    def base(self) -> Addr:
        """Where the window starts."""
        assert self._block is not None
        return self._block.addr

    @property
    def used(self) -> int:
        """Bytes that are allocated."""
        return self._pool.used

    def alloc(self, size: int, align: int = 64) -> DmaBuffer:
        extent = self._pool.alloc(size, align)
        self.clear(extent.start, extent.used - extent.start)
        return DmaBuffer(Addr(extent.start), size)

    def free(self, buffer: DmaBuffer) -> None:
        self._pool.free(buffer.addr)

    def clear(self, start: int, size: int) -> None:
        """Write zeroes."""
        for at in range(start, start + size, PIECE):
            part = min(PIECE, start + size - at)
            self._memory.view(Addr(at), part, True)[:] = ZEROS[:part]
