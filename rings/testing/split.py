"""A split ring as bare words, written without a check by either side, and a picture of it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import attrs

from rings.errors import MemoryFault
from rings.layout import DESC_SIZE, INDIRECT, NEXT, WRITE, RingAddrs, split_sizes
from rings.memory import Addr, Memory

__all__ = ["Desc", "RawRing", "dump", "linked"]

DESC = struct.Struct("<QIHH")


@attrs.frozen
class Desc:
    """One descriptor of a split ring, of any content; what is too wide for its field is cut off."""

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
    """Each descriptor with the place it goes to, linked to the place of the next: a chain as it should be."""
    pairs = list(zip(places, descs, strict=False))
    for (place, desc), (following, _) in pairwise(pairs):
        yield place, attrs.evolve(desc, flags=desc.flags | NEXT, next=following)
    yield pairs[-1]


class _Word:
    """A 16-bit field of a raw ring: its area, and its position as ``first + per_num * num``."""

    def __init__(self, area: str, first: int, per_num: int = 0) -> None:
        self._area, self._first, self._per_num = area, first, per_num

    def __get__(self, ring: RawRing, owner: type[RawRing]) -> int:
        value: int = getattr(ring, self._area)[self._first + self._per_num * ring.num]
        return value

    def __set__(self, ring: RawRing, value: int) -> None:
        getattr(ring, self._area)[self._first + self._per_num * ring.num] = value & 0xFFFF


class RawRing:
    """Either side of a split ring as bare words: reads and writes anything, checks nothing.

    Positions in rings are taken modulo the queue size, values cut to their field.
    """

    avail_flags = _Word("_avail", 0)
    avail_idx = _Word("_avail", 1)
    used_event = _Word("_avail", 2, 1)
    used_flags = _Word("_used", 0)
    used_idx = _Word("_used", 1)
    avail_event = _Word("_used", 2, 4)

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs) -> None:
        """``num`` as the other side believes it to be. Raises MemoryFault where no memory is."""
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
        """Write a chain that is linked as it should be, into neighbouring descriptors from ``head`` on."""
        for index, desc in linked(descs, ((head + at) % self.num for at in range(len(descs)))):
            self.write(index, desc)

    def table(self, addr: Addr, *descs: Desc) -> Desc:
        """Write an indirect table at ``addr``, entries as given; the descriptor that leads to it."""
        data = b"".join(desc.emit() for desc in descs)
        self.memory.view(addr, len(data), True)[:] = data
        return Desc(addr, len(data), INDIRECT)

    def entry(self, index: int) -> int:
        """The head in an entry of the available ring."""
        return int(self._avail[2 + index % self.num])

    def set_entry(self, index: int, head: int) -> None:
        self._avail[2 + index % self.num] = head & 0xFFFF

    def elem(self, index: int) -> tuple[int, int]:
        """Id and length in an element of the used ring."""
        at = 2 * (index % self.num)
        return int(self._elems[at]), int(self._elems[at + 1])

    def set_elem(self, index: int, head: int, size: int) -> None:
        at = 2 * (index % self.num)
        self._elems[at], self._elems[at + 1] = head & 0xFFFF_FFFF, size & 0xFFFF_FFFF

    def offer(self, *heads: int) -> None:
        """As a driver: put heads into the available ring, then move its index."""
        for at, head in enumerate(heads):
            self.set_entry(self.avail_idx + at, head)
        self.avail_idx += len(heads)

    def give(self, head: int, size: int = 0) -> None:
        """As a device: put one element into the used ring, then move its index."""
        self.set_elem(self.used_idx, head, size)
        self.used_idx += 1

    def clear(self, fill: bytes = b"\0") -> None:
        """Fill all three areas with one byte."""
        for start, size in zip(attrs.astuple(self.addrs), split_sizes(self.num), strict=True):
            self.memory.view(start, size, True)[:] = fill * size


def dump(ring: RawRing) -> str:
    """A picture of a split ring: indices, flags and events, what is available, and what was used last.

    Available are the entries from the used index to the available index, each with its chain as the memory
    has it now; with out-of-order use that is the right number of them, and some may be used already.
    """
    avail, used, num = ring.avail_idx, ring.used_idx, ring.num
    outstanding = avail - used & 0xFFFF
    lines = [
        f"split ring of {num} descriptors",
        f"available  idx {avail}  flags {ring.avail_flags}  used_event {ring.used_event}  ({outstanding} outstanding)",
    ]
    for index in (avail - back & 0xFFFF for back in range(min(outstanding, num), 0, -1)):
        head = ring.entry(index)
        lines.append(f"  {index:>5}: head {head}")
        lines += [f"         {line}" for line in _chain(ring, head)]
    lines.append(f"used       idx {used}  flags {ring.used_flags}  avail_event {ring.avail_event}")
    for index in (used - back & 0xFFFF for back in range(min(num, used), 0, -1)):
        head, size = ring.elem(index)
        lines.append(f"  {index:>5}: id {head}  len {size}")
    return "\n".join(lines)


def _chain(ring: RawRing, index: int) -> Iterator[str]:
    for _ in range(ring.num):
        if index >= ring.num:
            yield f"{index}: no such descriptor"
            return
        desc = ring.read(index)
        yield f"{index}: {desc}"
        if desc.flags & INDIRECT:
            yield from (f"   {line}" for line in _table(ring, desc))
        if not desc.flags & NEXT:
            return
        index = desc.next
    yield "... longer than the queue"


def _table(ring: RawRing, desc: Desc) -> Iterator[str]:
    size = min(desc.size, ring.num * DESC_SIZE) // DESC_SIZE * DESC_SIZE
    try:
        data = b"".join(map(bytes, ring.memory.segments(Addr(desc.addr), size)))
    except MemoryFault as fault:
        yield str(fault)
        return
    for at in range(0, size, DESC_SIZE):
        yield f"{at // DESC_SIZE}: {Desc.parse(data[at : at + DESC_SIZE])}"
