"""A packed ring as raw words that either side writes without validation."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from rings.layout import AVAIL, DESC, DESC_SIZE, INDIRECT, NEXT, USED, RingAddrs, packed_sizes
from rings.memory import Addr, Memory

__all__ = ["PackedDesc", "RawPackedRing"]

LAPS = {0: USED, 1: AVAIL}


@attrs.frozen
class PackedDesc:
    """A descriptor of a packed ring with any content; values too wide for their field are truncated."""

    addr: int
    size: int = 0
    """Bytes."""
    flags: int = 0
    id: int = 0

    def emit(self) -> bytes:
        return DESC.pack(self.addr & (1 << 64) - 1, self.size & 0xFFFF_FFFF, self.id & 0xFFFF, self.flags & 0xFFFF)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> PackedDesc:
        addr, size, ident, flags = DESC.unpack(data)
        return cls(addr, size, flags, ident)


class RawPackedRing:
    """Either side of a packed ring as raw words: reads and writes anything, validates nothing.

    Positions count descriptors from the start over all laps: ``next_avail`` is the next one to make available,
    ``next_used`` the next one to use.
    """

    def __init__(self, memory: Memory, num: int, addrs: RingAddrs) -> None:
        """Pin the areas of a ring whose other side uses ``num`` descriptors. Raises MemoryFault for unmapped memory."""
        desc, driver, device = packed_sizes(num)
        self.memory = memory
        self.num = num
        self.addrs = addrs
        self.next_avail = self.next_used = 0
        self._desc = memory.pin(addrs.desc, desc, "B")
        self._driver = memory.pin(addrs.driver, driver, "I")
        self._device = memory.pin(addrs.device, device, "I")

    def lap(self, position: int) -> int:
        """Return the wrap counter at a position."""
        return 1 - position // self.num % 2

    def read(self, position: int) -> PackedDesc:
        at = DESC_SIZE * (position % self.num)
        return PackedDesc.parse(self._desc[at : at + DESC_SIZE])

    def write(self, position: int, desc: PackedDesc) -> None:
        at = DESC_SIZE * (position % self.num)
        self._desc[at : at + DESC_SIZE] = desc.emit()

    def available(self, position: int) -> int:
        """Return the flags of a descriptor that the driver makes available at ``position``."""
        return LAPS[self.lap(position)]

    @property
    def driver_event(self) -> int:
        """The driver's event suppression area: position, wrap counter and flags as one word."""
        return int(self._driver[0])

    @driver_event.setter
    def driver_event(self, word: int) -> None:
        self._driver[0] = word

    @property
    def device_event(self) -> int:
        """The device's event suppression area: position, wrap counter and flags as one word."""
        return int(self._device[0])

    @device_event.setter
    def device_event(self, word: int) -> None:
        self._device[0] = word

    def table(self, addr: Addr, *descs: PackedDesc) -> PackedDesc:
        """Write an indirect table of ``descs`` at ``addr``. Returns the descriptor that refers to it."""
        data = b"".join(desc.emit() for desc in descs)
        self.memory.view(addr, len(data), True)[:] = data
        return PackedDesc(addr, len(data), INDIRECT)

    def offer(self, *descs: PackedDesc, ident: int = 0) -> None:
        """Add a correctly linked list as a driver, making its first descriptor available last."""
        last = len(descs) - 1
        for at, desc in reversed(list(enumerate(descs))):
            flags = desc.flags | self.available(self.next_avail + at) | (NEXT if at < last else 0)
            self.write(self.next_avail + at, attrs.evolve(desc, flags=flags, id=ident if at == last else 0))
        self.next_avail += len(descs)

    def give(self, ident: int, size: int = 0, *, takes: int = 1, flags: int = 0) -> None:
        """Use the buffer ``ident`` of ``takes`` descriptors, as a device."""
        flags |= AVAIL | USED if self.lap(self.next_used) else 0
        self.write(self.next_used, PackedDesc(self.read(self.next_used).addr, size, flags, ident))
        self.next_used += takes

    def areas(self) -> Sequence[tuple[int, int]]:
        """Return (address, bytes) of the three areas."""
        return list(zip(attrs.astuple(self.addrs), packed_sizes(self.num), strict=True))

    def clear(self, fill: bytes = b"\0") -> None:
        """Fill all three areas with one byte."""
        for start, size in self.areas():
            self.memory.view(Addr(start), size, True)[:] = fill * size
