"""The driver's side of a packed ring as raw words: it writes anything, believes nothing (VIRTIO 1.4 section 2.8)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vnet.check.memory import Arena
from vnet.check.split import NEXT, WRITE, Buffer

__all__ = ["AVAIL", "DESC", "USED", "PackedRing"]

AVAIL, USED = 1 << 7, 1 << 15
DESC = struct.Struct("<QIHH")
"""Address, length, buffer id and flags."""


class PackedRing:
    """A packed ring of ``num`` descriptors in the arena. Positions count descriptors over all laps."""

    packed = True

    def __init__(self, arena: Arena, num: int) -> None:
        self.num = num
        self.arena = arena
        self.desc = arena.alloc(16 * num, 16)
        self.driver = arena.alloc(4, 4)
        self.device = arena.alloc(4, 4)
        self._table = arena.view(self.desc, 16 * num)
        self._flags = self._table.cast("H")
        self._driver = arena.view(self.driver, 4).cast("H")
        self.next_avail = self.next_used = 0
        self._lengths: dict[int, int] = {}  # descriptors of each list in flight, by buffer id
        self._id = 0

    def lap(self, position: int) -> int:
        """Return the wrap counter at a position: 1 in the first lap."""
        return 1 - position // self.num % 2

    def available(self, position: int) -> int:
        """Return the flags that make the descriptor at ``position`` available."""
        return AVAIL if self.lap(position) else USED

    def write(self, position: int, addr: int, size: int, ident: int, flags: int) -> None:
        """Write a descriptor, its flags last."""
        at = position % self.num
        data = DESC.pack(addr & (1 << 64) - 1, size & 0xFFFF_FFFF, ident & 0xFFFF, 0)
        self._table[16 * at : 16 * at + 14] = data[:14]
        self._flags[8 * at + 7] = flags & 0xFFFF

    def read(self, position: int) -> tuple[int, int, int]:
        """Return length, buffer id and flags of a descriptor."""
        at = position % self.num
        flags = int(self._flags[8 * at + 7])
        _, size, ident, _ = DESC.unpack(self._table[16 * at : 16 * at + 16])
        return size, ident, flags

    def suppress(self, off_wrap: int, flags: int) -> None:
        """Write the driver's event suppression area. Flags: 0 enables, 1 disables, 2 names a position."""
        self._driver[0] = off_wrap & 0xFFFF
        self._driver[1] = flags & 0xFFFF

    # Requests

    def submit(self, buffers: Sequence[Buffer], ident: int | None = None) -> int:
        """Make one request available, its first descriptor last; return the id that its answer has."""
        if ident is None:
            ident, self._id = self._id, (self._id + 1) % self.num
        last = len(buffers) - 1
        for at, one in reversed(list(enumerate(buffers))):
            place = self.next_avail + at
            flags = (WRITE if one.writable else 0) | (NEXT if at < last else 0) | self.available(place)
            self.write(place, one.addr, one.size, ident, flags)
        self.next_avail += len(buffers)
        self._lengths[ident] = len(buffers)
        return ident

    def answers(self) -> list[tuple[int, int]]:
        """Return id and length of each answer since the last call."""
        fresh: list[tuple[int, int]] = []
        while self.pending and len(fresh) < self.num:
            size, ident, flags = self.read(self.next_used)
            fresh.append((ident, size if flags & WRITE else 0))  # section 2.8.4: else the length means nothing
            self.next_used += self._lengths.pop(ident, 1)
        return fresh

    @property
    def pending(self) -> int:
        """1 if the next descriptor is marked used, else 0."""
        if self.next_used >= self.next_avail:
            return 0
        _, _, flags = self.read(self.next_used)
        lap = self.lap(self.next_used)
        return int(bool(flags & AVAIL) == bool(flags & USED) == bool(lap))
