"""The three areas of a split virtqueue as typed views, for both sides (VIRTIO 1.4 section 2.7)."""

from __future__ import annotations

from typing import Any

from rings.areas import Areas
from rings.layout import RingAddrs, check_split, split_sizes
from rings.memory import Addr, Memory

__all__ = ["AVAIL_RING", "FLAGS", "IDX", "SplitRing"]

FLAGS, IDX, AVAIL_RING = 0, 1, 2
"""Positions in the 16-bit views of the available and the used ring."""


class SplitRing(Areas):
    """Pinned typed views of one queue's areas.

    A descriptor is two 64-bit words, the second of which holds len, flags and next. Used elements are one
    64-bit word each, in a view that starts behind flags and idx. Indices, flags and events are aligned
    16-bit stores and loads, which are never torn.
    """

    __slots__ = ("addrs", "avail", "avail_event", "desc", "num", "used", "used_elems", "used_event")

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs) -> None:
        """Pin all areas. Raises BadRing for invalid addresses or an invalid size, MemoryFault for unmapped memory."""
        check_split(num, addrs)
        super().__init__(memory)
        desc, avail, used = split_sizes(num)
        self.num = num
        self.addrs = addrs
        self.desc: memoryview[Any] = self.pin(addrs.desc, desc, "Q")  # the first word of each pair is an `Addr`
        self.avail = self.pin(addrs.driver, avail, "H")
        self.used = self.pin(addrs.device, used, "H")
        self.used_elems = self.pin(Addr(addrs.device + 4), 8 * num, "Q")
        self.used_event = AVAIL_RING + num
        """Position of used_event in ``avail``."""
        self.avail_event = AVAIL_RING + 4 * num
        """Position of avail_event in ``used``."""
