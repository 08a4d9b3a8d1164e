"""DMA buffers for request data, in 4 KiB and 256 KiB pieces."""

from __future__ import annotations

import attrs
import trio

from drivers.contracts.hw import DmaBuffer, DmaMemory
from rings.memory import Addr
from rings.queue import Segment

__all__ = ["LARGE", "SMALL", "Buffer", "BufferPool"]

SMALL, LARGE = 4 << 10, 256 << 10
"""Bytes of the two sizes of pieces."""
SMALL_SHARE = 16
"""1/SMALL_SHARE of the memory is cut into small pieces."""
ALIGN = 4096


@attrs.frozen(eq=False)
class Piece:
    """One piece of memory, with one view that lasts as long as the memory."""

    addr: Addr
    view: memoryview
    home: list[Piece]
    """Free list of the piece."""


@attrs.define(eq=False)
class Buffer:
    """Memory for one request. ``views`` are for the driver; ``segs`` are the same bytes for the device."""

    owner: BufferPool
    size: int
    segs: list[Segment]
    views: list[memoryview]
    pieces: list[Piece]

    def free(self) -> None:
        """Return the pieces, once. Neither side may use the buffer afterwards."""
        self.owner.give_back(self)


class BufferPool:
    """A pool of pieces. The most recently freed piece is taken first: it is in the cache."""

    def __init__(self, dma: DmaMemory, size: int) -> None:
        """Allocate at least ``size`` bytes. Raises MemoryError."""
        self.dma = dma
        self._blocks: list[DmaBuffer] = []
        self._views: list[memoryview] = []
        self._small: list[Piece] = []
        self._large: list[Piece] = []
        self._room = trio.lowlevel.ParkingLot()
        self._taken = 0
        self._closed = False
        try:
            self._cut(self._small, SMALL, max(1, size // SMALL_SHARE // SMALL))
            self._cut(self._large, LARGE, max(1, (size - size // SMALL_SHARE) // LARGE))
        except BaseException:
            self.close()
            raise
        self.largest = LARGE * len(self._large)
        """Bytes of the largest possible buffer."""

    def _cut(self, pieces: list[Piece], size: int, count: int) -> None:
        block = self.dma.alloc(size * count, ALIGN)
        self._blocks.append(block)
        for at in reversed(range(block.addr, block.addr + size * count, size)):
            addr = Addr(at)
            view = self.dma.pin(addr, size, "B")
            self._views.append(view)
            pieces.append(Piece(addr, view, pieces))

    def take(self, size: int) -> Buffer | None:
        """Return a buffer of ``size`` >= 1 bytes, or None if too few are free or the pool is closed."""
        if size <= SMALL and self._small:
            piece = self._small[-1]
            try:
                view = piece.view[:size]
            except ValueError:
                return None
            self._small.pop()
            self._taken += 1
            return Buffer(self, size, [(piece.addr, size)], [view], [piece])
        home, count = self._large, -(-size // LARGE)
        if count > len(home):
            return None
        pieces = home[-count:]
        try:
            # Fresh views: those of the pieces are released with the memory, which must not happen to a buffer's views.
            views = [piece.view[:] for piece in pieces]
        except ValueError:
            return None
        del home[-count:]
        self._taken += 1
        last = size - LARGE * (count - 1)
        views[-1] = views[-1][:last]
        segs = [(piece.addr, LARGE) for piece in pieces]
        segs[-1] = pieces[-1].addr, last
        return Buffer(self, size, segs, views, pieces)

    def give_back(self, buffer: Buffer) -> None:
        """Return the pieces of a buffer to the pool."""
        for piece in buffer.pieces:
            piece.home.append(piece)
        self._taken -= 1
        if self._room:
            self._room.unpark_all()
        if self._closed and not self._taken:
            self._release()

    async def wait(self) -> None:
        """Return after the next buffer was freed."""
        await self._room.park()

    def close(self) -> None:
        """Stop handing out buffers. The memory is released with the last one."""
        self._closed = True
        self._small.clear()
        self._large.clear()
        self._room.unpark_all()
        if not self._taken:
            self._release()

    def _release(self) -> None:
        while self._views:
            self.dma.unpin(self._views.pop())
        while self._blocks:
            self.dma.free(self._blocks.pop())
