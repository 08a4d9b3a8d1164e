"""A split ring as raw words that either side writes without validation, and a dump of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import attrs

from rings.layout import DESC, DESC_SIZE, INDIRECT, NEXT, WRITE, RingAddrs, split_sizes
from rings.memory import Addr, Memory
from rings.view import lines, view_split

__all__ = ["Desc", "RawRing", "dump", "linked"]


@attrs.frozen
class Desc:
    """A descriptor of a split ring with any content; values too wide for their field are truncated."""

    addr: int
    size: int = 0
    """Bytes."""
    flags: int = 0
    next: int = 0

    def emit(self) -> bytes:
        return DESC.pack(self.addr & (1 << 64) - 1, self.size & 0xFFFF_FFFF, self.flags & 0xFFFF, self.next & 0xFFFF)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Desc:
        return cls(*DESC.unpack(data))

    def __str__(self) -> str:
        kind = "table" if self.flags & INDIRECT else "w" if self.flags & WRITE else "r"
        return f"{self.addr:#x} +{self.size} {kind}" + (f" -> {self.next}" if self.flags & NEXT else "")


def linked(descs: Sequence[Desc], places: Iterable[int]) -> Iterator[tuple[int, Desc]]:
    """Yield each descriptor of a correctly linked chain with its index in the table, taken from ``places``."""
    pairs = list(zip(places, descs, strict=False))
    for (place, desc), (following, _) in pairwise(pairs):
        yield place, attrs.evolve(desc, flags=desc.flags | NEXT, next=following)
    yield pairs[-1]


class _Word:
    """A 16-bit field of a raw ring, at position ``first + per_num * num`` of its area."""

    def __init__(self, area: str, first: int, per_num: int = 0) -> None:
        self._area, self._first, self._per_num = area, first, per_num

    def __get__(self, ring: RawRing, owner: type[RawRing]) -> int:
        value: int = getattr(ring, self._area)[self._first + self._per_num * ring.num]
        return value

    def __set__(self, ring: RawRing, value: int) -> None:
        getattr(ring, self._area)[self._first + self._per_num * ring.num] = value & 0xFFFF


class RawRing:
    """Either side of a split ring as raw words: reads and writes anything, validates nothing.

    Positions are taken modulo the queue size; values are truncated to their field.
    """

    avail_flags = _Word("_avail", 0)
    avail_idx = _Word("_avail", 1)
    used_event = _Word("_avail", 2, 1)
    used_flags = _Word("_used", 0)
    used_idx = _Word("_used", 1)
    avail_event = _Word("_used", 2, 4)

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs) -> None:
        """Pin the areas of a ring whose other side uses ``num`` descriptors. Raises MemoryFault for unmapped memory."""
        desc, avail, used = split_sizes(num)
        self.memory = memory
        self.num = num
        self.addrs = addrs
        self._desc = memory.pin(addrs.desc, desc, "B")
        self._avail = memory.pin(addrs.driver, avail, "H")
        self._used = memory.pin(addrs.device, used, "H")
        self._elems = memory.pin(Addr(addrs.device + 4), 8 * num, "I")

    def read(self, index: int) -> Desc:
        return Desc.parse(self._desc[DESC_SIZE * index : DESC_SIZE * (index + 1)])

    def write(self, index: int, desc: Desc) -> None:
        self._desc[DESC_SIZE * index : DESC_SIZE * (index + 1)] = desc.emit()

    def chain(self, head: int, *descs: Desc) -> None:
        """Write a correctly linked chain into consecutive descriptors from ``head`` on."""
        for index, desc in linked(descs, ((head + at) % self.num for at in range(len(descs)))):
            self.write(index, desc)

    def table(self, addr: Addr, *descs: Desc) -> Desc:
        """Write an indirect table of ``descs`` at ``addr``. Returns the descriptor that refers to it."""
        data = b"".join(desc.emit() for desc in descs)
        self.memory.view(addr, len(data), True)[:] = data
        return Desc(addr, len(data), INDIRECT)

    def entry(self, index: int) -> int:
        """Return the head in an entry of the available ring."""
        return int(self._avail[2 + index % self.num])

    def set_entry(self, index: int, head: int) -> None:
        self._avail[2 + index % self.num] = head & 0xFFFF

    def elem(self, index: int) -> tuple[int, int]:
        """Return id and length of an element of the used ring."""
        at = 2 * (index % self.num)
        return int(self._elems[at]), int(self._elems[at + 1])

    def set_elem(self, index: int, head: int, size: int) -> None:
        at = 2 * (index % self.num)
        self._elems[at], self._elems[at + 1] = head & 0xFFFF_FFFF, size & 0xFFFF_FFFF

    def offer(self, *heads: int) -> None:
        """Write heads into the available ring, then advance its index, as a driver."""
        for at, head in enumerate(heads):
            self.set_entry(self.avail_idx + at, head)
        self.avail_idx += len(heads)

    def give(self, head: int, size: int = 0) -> None:
        """Write an element into the used ring, then advance its index, as a device."""
        self.set_elem(self.used_idx, head, size)
        self.used_idx += 1

    def clear(self, fill: bytes = b"\0") -> None:
        """Fill all three areas with one byte."""
        for start, size in zip(attrs.astuple(self.addrs), split_sizes(self.num), strict=True):
            self.memory.view(start, size, True)[:] = fill * size


def dump(ring: RawRing) -> str:
    """Return a text of the ring, see `rings.view`."""
    return "\n".join(lines(view_split(ring.memory, ring.num, ring.addrs)))
