"""The device's side of a packed ring as raw words: it judges each word of the driver (VIRTIO 1.4 section 2.8)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vnet.check.driver.clauses import Observations
from vnet.check.driver.memory import DriverError, SharedRegions
from vnet.check.driver.ring import LARGEST, Chain, Entry, WatchedRing
from vnet.check.packed import AVAIL, DESC, USED
from vnet.check.split import INDIRECT, NEXT, WRITE
from vnet.linux.memory import full_fence

__all__ = ["WatchedPacked"]

WRAP = 1 << 15
"""Bit of the wrap counter beside a position."""
ENABLE, DISABLE, DESCRIPTOR = 0, 1, 2
"""Flags of event suppression: all, none, or one that passes a descriptor."""


class WatchedPacked(WatchedRing):
    """A started packed ring."""

    packed = True
    order = "PACKED-DRV-14"

    def __init__(
        self, memory: SharedRegions, num: int, addrs: tuple[int, int, int], base: int, features: int, seen: Observations
    ) -> None:
        """``addrs`` are those of ring, device area and driver area in the front end. Raises DriverError."""
        desc, device, driver = addrs
        seen.judge("PACKED-DRV-2", 0 < num <= LARGEST, f"queue size {num}")
        aligned = not (desc % 16 or device % 4 or driver % 4)
        seen.judge("PACKED-DRV-1", aligned, f"areas at {desc:#x} {driver:#x} {device:#x}")
        super().__init__(memory, num, features, seen)
        self._table = memory.view(desc, 16 * num, user=True)
        self._flags = self._table.cast("H")
        self._driver = memory.view(driver, 4, user=True).cast("H")
        self._device = memory.view(device, 4, user=True).cast("H")
        if base == WRAP:
            base |= base << 16  # DPDK's virtio-user leaves the used half of a new ring 0
        # Positions count descriptors over two laps: the wrap counter is 1 in the first one.
        self._next, self._used = (
            at % WRAP % num + (0 if at & WRAP else num) for at in (base & 0xFFFF, base >> 16 & 0xFFFF)
        )
        self._counts: dict[int, int] = {}  # descriptors of each list in flight, by buffer id

    @property
    def base(self) -> int:
        first, second = (at % self.num | (WRAP if self._lap(at) else 0) for at in (self._next, self._used))
        return first | second << 16

    def _lap(self, at: int) -> int:
        """Return the wrap counter at a position."""
        return int(at % (2 * self.num) < self.num)

    def _available(self, at: int) -> bool:
        flags = int(self._flags[8 * (at % self.num) + 7])
        lap = self._lap(at)
        return bool(flags & AVAIL) == bool(lap) and bool(flags & USED) != bool(lap)

    @property
    def waiting(self) -> int:
        return int(self._available(self._next))

    def ask_for_kick(self) -> None:
        if self.event_idx:
            self._device[0] = self._next % self.num | (WRAP if self._lap(self._next) else 0)
        self._device[1] = DESCRIPTOR if self.event_idx else ENABLE
        full_fence()  # the driver stores its descriptor, then loads the suppression area

    def judge_flags(self) -> None:
        flags = int(self._driver[1])
        good = flags in (ENABLE, DISABLE) or (flags == DESCRIPTOR and self.event_idx)
        self.seen.judge("PACKED-DRV-7", good, f"flags {flags:#x} of the driver area, EVENT_IDX {self.event_idx:d}")

    def judge_kick(self, came: bool) -> None:
        words = f"suppression area {self._device[0]:#06x} {self._device[1]:#x}"
        self.seen.judge("PACKED-DRV-23", came, f"descriptor {self._next % self.num}, {words}, no kick within 0.5 s")

    def take(self) -> Chain:
        entries = list(self._walk())
        at = (self._next - 1) % self.num
        ident = DESC.unpack_from(self._table, 16 * at)[2]
        return self.chain(ident, entries)

    def _walk(self) -> Iterator[Entry]:
        """Yield the entries of the next list, those of an indirect table in its place. Raises DriverError."""
        count, start = 0, self._next
        while True:
            if not self.seen.judge("PACKED-DRV-13", count < self.num, f"more than {self.num} descriptors in a list"):
                raise DriverError(f"made a list of more than {self.num} descriptors available")
            at = self._next % self.num
            desc = bytes(self._table[16 * at : 16 * at + 16])
            addr, size, ident, flags = DESC.unpack(desc)
            good = self._available(self._next)
            self.seen.judge("PACKED-DRV-4", good, f"descriptor {at} of a list: {desc.hex()}")
            count += 1
            self._next = (self._next + 1) % (2 * self.num)
            if flags & INDIRECT:
                self.seen.judge("PACKED-DRV-21", not flags & NEXT and count == 1, f"descriptor {at}: {desc.hex()}")
                yield from self._table_entries(addr, size, desc)
            else:
                yield addr, size, flags, desc.hex()
            if not flags & NEXT:
                break
        self._counts[ident] = (self._next - start) % (2 * self.num)

    def _table_entries(self, addr: int, size: int, desc: bytes) -> Iterator[Entry]:
        self.seen.judge("PACKED-DRV-18", self.indirect, f"descriptor {desc.hex()}")
        table = bytes(self.memory.view(addr, size - size % 16))
        for at in range(0, len(table), 16):
            entry = table[at : at + 16]
            addr, size, _, flags = DESC.unpack(entry)
            self.seen.judge("PACKED-DRV-19", not flags & ~WRITE, f"entry {at // 16} of a table: {entry.hex()}")
            yield addr, size, flags, entry.hex()

    @property
    def next_element(self) -> int:
        return self._used % self.num

    def overwrite(self, place: int, head: int, written: int) -> None:
        """Write a used descriptor, its flags last; the lap is that of the next one."""
        flags = (AVAIL | USED if self._lap(self._used) else 0) | (WRITE if written else 0)
        self._table[16 * place + 8 : 16 * place + 14] = struct.pack("<IH", written & 0xFFFF_FFFF, head & 0xFFFF)
        self._flags[8 * place + 7] = flags

    def give(self, head: int, written: int) -> bool:
        self.overwrite(self.next_element, head, written)
        before = self._used % self.num
        count = self._counts.pop(head, 0)  # a forged id uses up no descriptor
        self._used = (self._used + count) % (2 * self.num)
        full_fence()  # the driver stores its suppression field, then loads the descriptor
        flags, off_wrap = int(self._driver[1]), int(self._driver[0])
        if flags != DESCRIPTOR or not self.event_idx:
            return flags != DISABLE
        # Section 2.8.10: the position may be one of the former lap.
        after = before + max(count, 1)
        event = off_wrap % WRAP - (0 if (off_wrap >> 15) == self._lap(self._used - count) else self.num)
        return (after - event - 1) & 0xFFFF < (after - before) & 0xFFFF
