"""The three areas of a packed virtqueue as typed views, for both sides (VIRTIO 1.4 section 2.8)."""

from __future__ import annotations

from typing import Any

from rings.areas import Areas
from rings.layout import AVAIL, LAP, USED, RingAddrs, check_packed, packed_sizes
from rings.memory import Memory

__all__ = ["DESC", "DISABLE", "ENABLE", "FIRST_LAP", "HANDS", "PackedRing", "at", "available", "used"]

ENABLE, DISABLE, DESC = 0, 1 << 16, 2 << 16
"""Flags of an event suppression area as one 32-bit word, above the position (section 2.8.10)."""
HANDS = AVAIL | USED
"""The two ownership bits of a descriptor's flags, which are the upper 16 bits of its second word."""
FIRST_LAP = LAP
"""Initial position of both sides: the first descriptor, with a wrap counter of 1 (section 2.8.1)."""


def available(lap: int) -> int:
    """Return `HANDS` of a descriptor that the driver makes available with this wrap counter."""
    return AVAIL if lap else USED


def used(lap: int) -> int:
    """Return `HANDS` of a descriptor that the device uses with this wrap counter."""
    return HANDS if lap else 0


def at(slot: int, lap: int) -> int:
    """Return the position of a descriptor's number and the wrap counter."""
    return slot | LAP if lap else slot


class PackedRing(Areas):
    """Pinned typed views of one queue's areas.

    A descriptor is two 64-bit words, the second of which holds len, id and flags: one store publishes all three. An
    event suppression area is one 32-bit word. All words are aligned, so that none is ever torn.
    """

    __slots__ = ("addrs", "desc", "device", "driver", "num")

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs) -> None:
        """Pin all areas. Raises BadRing for invalid addresses or an invalid size, MemoryFault for unmapped memory."""
        check_packed(num, addrs)
        super().__init__(memory)
        desc, driver, device = packed_sizes(num)
        self.num = num
        self.addrs = addrs
        self.desc: memoryview[Any] = self.pin(addrs.desc, desc, "Q")  # the first word of each pair is an `Addr`
        self.driver = self.pin(addrs.driver, driver, "I")
        self.device = self.pin(addrs.device, device, "I")
