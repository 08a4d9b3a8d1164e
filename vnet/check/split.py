"""The driver's side of a split ring as raw words: it writes anything, and believes nothing (VIRTIO 1.4 section 2.7)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import attrs

from vnet.check.memory import Arena

__all__ = ["DESC", "INDIRECT", "NEXT", "WRITE", "Buffer", "Desc", "SplitRing", "linked"]

NEXT, WRITE, INDIRECT = 1, 2, 4
DESC = struct.Struct("<QIHH")
"""Address, length, flags and next."""


@attrs.frozen
class Buffer:
    """A piece of a request: memory that the device reads, or that it writes."""

    addr: int
    size: int
    writable: bool = False


@attrs.frozen
class Desc:
    """A descriptor with any content; too wide values are truncated."""

    addr: int
    size: int = 0
    flags: int = 0
    next: int = 0

    def emit(self) -> bytes:
        return DESC.pack(self.addr & (1 << 64) - 1, self.size & 0xFFFF_FFFF, self.flags & 0xFFFF, self.next & 0xFFFF)


def linked(buffers: Sequence[Buffer], first: int, num: int) -> list[Desc]:
    """Return the descriptors of a correctly linked chain in consecutive places from ``first`` on."""
    last = len(buffers) - 1
    return [
        Desc(
            one.addr,
            one.size,
            (WRITE if one.writable else 0) | (NEXT if at < last else 0),
            (first + at + 1) % num if at < last else 0,
        )
        for at, one in enumerate(buffers)
    ]


class SplitRing:
    """A split ring of ``num`` descriptors in the arena. All words are little-endian, as the host is."""

    packed = False

    def __init__(self, arena: Arena, num: int) -> None:
        self.num = num
        self.arena = arena
        self.desc = arena.alloc(16 * num, 16)
        self.driver = arena.alloc(6 + 2 * num, 2)
        self.device = arena.alloc(6 + 8 * num, 4)
        self._table = arena.view(self.desc, 16 * num)
        self._avail = arena.view(self.driver, 6 + 2 * num).cast("H")
        self._used = arena.view(self.device, 4).cast("H")
        self._elems = arena.view(self.device + 4, 8 * num).cast("I")
        self._avail_event = arena.view(self.device + 4 + 8 * num, 2).cast("H")
        self._place = 0
        self._seen = 0

    # Raw words

    def write(self, index: int, desc: Desc) -> None:
        """Write the descriptor at ``index`` of the table."""
        self._table[16 * index : 16 * index + 16] = desc.emit()

    def read(self, index: int) -> bytes:
        return bytes(self._table[16 * index : 16 * index + 16])

    @property
    def avail_idx(self) -> int:
        return int(self._avail[1])

    @avail_idx.setter
    def avail_idx(self, value: int) -> None:
        self._avail[1] = value & 0xFFFF

    @property
    def avail_flags(self) -> int:
        return int(self._avail[0])

    @avail_flags.setter
    def avail_flags(self, value: int) -> None:
        self._avail[0] = value

    @property
    def used_event(self) -> int:
        return int(self._avail[2 + self.num])

    @used_event.setter
    def used_event(self, value: int) -> None:
        self._avail[2 + self.num] = value & 0xFFFF

    @property
    def used_flags(self) -> int:
        return int(self._used[0])

    @used_flags.setter
    def used_flags(self, value: int) -> None:
        self._used[0] = value

    @property
    def used_idx(self) -> int:
        return int(self._used[1])

    @used_idx.setter
    def used_idx(self, value: int) -> None:
        self._used[1] = value & 0xFFFF

    @property
    def avail_event(self) -> int:
        return int(self._avail_event[0])

    @avail_event.setter
    def avail_event(self, value: int) -> None:
        self._avail_event[0] = value & 0xFFFF

    def elem(self, index: int) -> tuple[int, int]:
        """Return id and length of an element of the used ring."""
        at = 2 * (index % self.num)
        return int(self._elems[at]), int(self._elems[at + 1])

    def set_entry(self, index: int, head: int) -> None:
        """Write an entry of the available ring."""
        self._avail[2 + index % self.num] = head & 0xFFFF

    def start_at(self, index: int) -> None:
        """Begin at ``index`` on both sides, as SET_VRING_BASE says."""
        self.avail_idx = self.used_idx = index
        self._seen = index & 0xFFFF

    # Requests

    def offer(self, *heads: int) -> None:
        """Make chains available: entries first, then the index."""
        for at, head in enumerate(heads):
            self.set_entry(self.avail_idx + at, head)
        self.avail_idx = self.avail_idx + len(heads)

    def place(self, count: int) -> int:
        """Return the first of ``count`` consecutive descriptors. Earlier requests must have been answered."""
        first, self._place = self._place, (self._place + count) % self.num
        return first

    def chain(self, buffers: Sequence[Buffer]) -> int:
        """Write a chain; return its head."""
        head = self.place(len(buffers))
        for at, desc in enumerate(linked(buffers, head, self.num)):
            self.write((head + at) % self.num, desc)
        return head

    def table(self, buffers: Sequence[Buffer], flags: int = 0) -> int:
        """Write an indirect table and the descriptor that names it, with more ``flags``; return its head."""
        data = b"".join(desc.emit() for desc in linked(buffers, 0, 1 << 16))
        head = self.place(1)
        self.write(head, Desc(self.arena.put(data, 16), len(data), INDIRECT | flags))
        return head

    def submit(self, buffers: Sequence[Buffer]) -> int:
        """Make one request available; return the id that its answer has."""
        head = self.chain(buffers)
        self.offer(head)
        return head

    def answers(self) -> list[tuple[int, int]]:
        """Return id and length of each answer since the last call, at most `num` of them."""
        index = self.used_idx  # read once: the device may move it meanwhile
        count = index - self._seen & 0xFFFF
        fresh = [self.elem(self._seen + at) for at in range(min(count, self.num))]
        self._seen = index
        return fresh

    @property
    def pending(self) -> int:
        """Answers that were not taken, as the device's index says; more than the ring has is the device's error."""
        return self.used_idx - self._seen & 0xFFFF
