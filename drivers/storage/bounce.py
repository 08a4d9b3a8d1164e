"""Memory for data on its way: pieces of two sizes, taken and given back, of which a device may reach all."""

from __future__ import annotations

import attrs
import trio

from drivers.contracts.hw import DmaBuffer, DmaMemory
from rings.memory import Addr
from rings.queue import Segment

__all__ = ["LARGE", "SMALL", "Buffer", "Buffers"]

SMALL, LARGE = 4 << 10, 256 << 10
SMALL_SHARE = 16
"""One part in so many of all memory is cut into small pieces."""
ALIGN = 4096


@attrs.frozen(eq=False)
class Piece:
    """One piece of memory, seen through one view that lasts as long as the memory."""

    addr: Addr
    view: memoryview
    home: list[Piece]
    """Where it goes when it is free."""


@attrs.define(eq=False)
class Buffer:
    """Some bytes for one request. ``views`` are this side's, ``segs`` the same bytes as the device finds them."""

    owner: Buffers
    size: int
    segs: list[Segment]
    views: list[memoryview]
    pieces: list[Piece]

    def free(self) -> None:
        """Give it back, once; neither side uses it any more."""
        self.owner.give(self)


class Buffers:
    """A block of memory cut into pieces. The one that was given back last is taken first: it is in the cache."""

    def __init__(self, dma: DmaMemory, size: int) -> None:
        """``size`` bytes at least. Raises MemoryError where there are not so many."""
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
        """Bytes of the largest buffer there can be."""

    def _cut(self, pieces: list[Piece], size: int, count: int) -> None:
        block = self.dma.alloc(size * count, ALIGN)
        self._blocks.append(block)
        for at in reversed(range(block.addr, block.addr + size * count, size)):
            addr = Addr(at)
            view = self.dma.pin(addr, size, "B")
            self._views.append(view)
            pieces.append(Piece(addr, view, pieces))

    def take(self, size: int) -> Buffer | None:
        """``size`` bytes, at least 1, or None while there are too few free, or once the memory is gone."""
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
            # Views of our own: those that the pieces have are released with the memory, and a buffer must not be.
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

    def give(self, buffer: Buffer) -> None:
        for piece in buffer.pieces:
            piece.home.append(piece)
        self._taken -= 1
        if self._room:
            self._room.unpark_all()
        if self._closed and not self._taken:
            self._release()

    async def wait(self) -> None:
        """Return after the next buffer was given back."""
        await self._room.park()

    def close(self) -> None:
        """Hand out no more; the memory goes back when the last buffer has."""
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
