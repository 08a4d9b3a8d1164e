"""Sizes, alignment and flags of a virtqueue's areas (VIRTIO 1.4 sections 2.7 and 2.8)."""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import pairwise

import attrs

from rings.errors import BadRing
from rings.memory import Addr

__all__ = [
    "AVAIL",
    "DESC",
    "DESC_SIZE",
    "INDIRECT",
    "LAP",
    "MAX_NUM",
    "NEXT",
    "NO_INTERRUPT",
    "NO_NOTIFY",
    "PACKED_ALIGN",
    "SPLIT_ALIGN",
    "USED",
    "WRITE",
    "Area",
    "RingAddrs",
    "check_packed",
    "check_split",
    "packed_sizes",
    "split_sizes",
]

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15  # packed only
NO_INTERRUPT = 1
NO_NOTIFY = 1
DESC = struct.Struct("<QIHH")
"""A descriptor: address, length, then flags and next (split), or buffer id and flags (packed)."""
DESC_SIZE = DESC.size
LAP = 1 << 15
"""Wrap counter bit of a position in a packed ring, above the descriptor's number."""
MAX_NUM = 32768
"""Maximum queue size of either format, in descriptors."""
SPLIT_ALIGN = (16, 2, 4)
"""Alignment in bytes of descriptor table, available ring and used ring."""
PACKED_ALIGN = (16, 4, 4)
"""Alignment in bytes of descriptor ring, driver and device event suppression areas."""


class Area(IntEnum):
    """Areas of a queue, in the order of `RingAddrs`."""

    DESC = 0
    DRIVER = 1
    DEVICE = 2


@attrs.frozen
class RingAddrs:
    """Start addresses of the descriptor, driver and device areas of a queue.

    The driver and device areas are available and used ring of a split queue, or the event suppression areas of a packed
    one.
    """

    desc: Addr
    driver: Addr
    device: Addr

    def bits(self, area: Area, shift: int = 0, width: int = 64) -> int:
        """Return ``width`` bits of an area's address from bit ``shift`` on, as a register shows them."""
        return int(attrs.astuple(self)[area]) >> shift & (1 << width) - 1

    def with_bits(self, area: Area, value: int, shift: int = 0, width: int = 64) -> RingAddrs:
        """Return the addresses after a register write that sets ``width`` bits of one of them from bit ``shift`` on."""
        field = (1 << width) - 1 << shift
        addrs = list(attrs.astuple(self))
        addrs[area] = Addr(addrs[area] & ~field | value << shift & field)
        return RingAddrs(*addrs)


def split_sizes(num: int) -> tuple[int, int, int]:
    """Return the bytes of descriptor table, available ring and used ring of a split queue of ``num`` descriptors."""
    return DESC_SIZE * num, 6 + 2 * num, 6 + 8 * num


def check_split(num: int, addrs: RingAddrs) -> None:
    """Raise BadRing unless size and alignment of a split ring are valid and no areas overlap."""
    if not 1 <= num <= MAX_NUM or num & num - 1:
        raise BadRing(f"queue size {num} is not a power of two from 1 to {MAX_NUM}")
    _check_areas(addrs, split_sizes(num), SPLIT_ALIGN)


def packed_sizes(num: int) -> tuple[int, int, int]:
    """Return the bytes of descriptor ring, driver and device event suppression areas of a packed queue."""
    return DESC_SIZE * num, 4, 4


def check_packed(num: int, addrs: RingAddrs) -> None:
    """Raise BadRing unless size and alignment of a packed ring are valid and no areas overlap. Any size is allowed."""
    if not 1 <= num <= MAX_NUM:
        raise BadRing(f"queue size {num} is not from 1 to {MAX_NUM}")
    _check_areas(addrs, packed_sizes(num), PACKED_ALIGN)


def _check_areas(addrs: RingAddrs, sizes: tuple[int, int, int], aligns: tuple[int, int, int]) -> None:
    areas = sorted(zip(attrs.astuple(addrs), sizes, aligns, strict=True))
    for start, _, align in areas:
        if start % align:
            raise BadRing(f"ring area at {start:#x} is not aligned to {align} bytes")
    for (start, size, _), (following, _, _) in pairwise(areas):
        if start + size > following:
            raise BadRing(f"ring areas at {start:#x} and {following:#x} overlap")
