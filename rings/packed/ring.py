"""The three areas of a packed virtqueue as typed views, the same for both sides (VIRTIO 1.4 section 2.8)."""

from __future__ import annotations

from typing import Any

from rings.areas import Areas
from rings.layout import AVAIL, USED, RingAddrs, check_packed, packed_sizes
from rings.memory import Memory

__all__ = ["DESC", "DISABLE", "ENABLE", "FIRST_LAP", "HANDS", "PackedRing", "at", "available", "used"]

ENABLE, DISABLE, DESC = 0, 1 << 16, 2 << 16
"""The flags of an event suppression area, seen as one 32-bit word with the position below them (section 2.8.10)."""
HANDS = AVAIL | USED
"""Of a descriptor's flags, which are the upper 16 bits of its second word: the two by which it changes hands."""
LAP = 1 << 15
"""In a position: the wrap counter, above the descriptor's number."""
FIRST_LAP = LAP
"""Where both sides start: the first descriptor, with a wrap counter of 1 (section 2.8.1)."""


def available(lap: int) -> int:
    """`HANDS` of a descriptor that the driver made available with this wrap counter."""
    return AVAIL if lap else USED


def used(lap: int) -> int:
    """`HANDS` of a descriptor that the device used with this wrap counter."""
    return HANDS if lap else 0


def at(slot: int, lap: int) -> int:
    """A position: a descriptor's number, and the wrap counter there."""
    return slot | LAP if lap else slot


class PackedRing(Areas):
    """Pinned typed views of one queue's areas, and nothing else.

    A descriptor is two 64-bit words, the second of which holds len, id and flags: one store shows it to the other
    side whole. An event suppression area is one 32-bit word. All are aligned, so that none is ever torn.
    """

    __slots__ = ("desc", "device", "driver", "num")

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs) -> None:
        """Raises BadRing for addresses or a size that no ring can have, MemoryFault where nothing is."""
        check_packed(num, addrs)
        super().__init__(memory)
        desc, driver, device = packed_sizes(num)
        self.num = num
        self.desc: memoryview[Any] = self.pin(addrs.desc, desc, "Q")  # an `Addr` is the first of two
        self.driver = self.pin(addrs.driver, driver, "I")
        self.device = self.pin(addrs.device, device, "I")
