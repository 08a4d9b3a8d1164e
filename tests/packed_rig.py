"""One packed ring in guarded memory: the two honest sides, each watched on its own, and the raw one."""

from __future__ import annotations

from collections.abc import Iterator

from ring_rig import SPOT

from rings.layout import DESC_SIZE, packed_sizes
from rings.memory import Addr, Memory
from rings.packed.ring import at, used
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.testing import Access, Act, Guarded, RawPackedRing, Watched

__all__ = ["PackedRig", "position"]

BLOCK = 4096


def position(place: int, num: int) -> int:
    """A place counted over all laps, as it stands in an event suppression area."""
    return at(place % num, 1 - place // num % 2)


class PackedRig:
    """As `ring_rig.Rig`: memory with one ring; ``check`` is the post-condition of every test."""

    def __init__(self, num: int = 8, *, event_idx: bool = False, indirect: bool = True) -> None:
        self.num = num
        self.event_idx = event_idx
        self.indirect = indirect
        self.memory = Guarded(1 << 18)
        self.addrs = self.memory.grant_ring(num, packed=True)
        self.tables = self.memory.grant(num * 4 * DESC_SIZE) if indirect else None
        self.memory.add(Addr(SPOT), memoryview(bytearray(BLOCK)))
        self.raw = RawPackedRing(self.memory, num, self.addrs)
        self.driver_side: Watched = Watched(self.memory)
        self.device_side: Watched = Watched(self.memory)

    def driver(self, *, lenient: bool = False, memory: Memory | None = None) -> PackedVirtqueue[object]:
        return PackedVirtqueue(
            memory or self.driver_side,
            self.num,
            self.addrs,
            event_idx=self.event_idx,
            indirect=self.tables,
            indirect_max=4,
            lenient_used_len=lenient,
        )

    def device(self, start: int = 0, *, memory: Memory | None = None) -> PackedVringh:
        return PackedVringh(
            memory or self.device_side,
            self.num,
            self.addrs,
            event_idx=self.event_idx,
            indirect=self.indirect,
            base=position(start, self.num),
        )

    def pair(self, start: int = 0) -> tuple[PackedVirtqueue[object], PackedVringh]:
        """Both sides anew; ``start``: the place that both have come to, with nothing in flight."""
        driver, device = self.driver(), self.device(start)
        self.raw.offered = self.raw.given = start
        driver._slot = driver._used_slot = start % self.num
        driver._lap = driver._used_lap = self.raw.lap(start)
        for place in range(self.num):  # as used descriptors of this lap and of the one before leave it
            done_in = driver._lap ^ (place >= start % self.num)
            driver._desc[2 * place + 1] = used(done_in) << 48
        return driver, device

    def buffer(self, data: bytes | int = BLOCK) -> Addr:
        """Granted memory with this content, or this many zeroes."""
        size = data if isinstance(data, int) else len(data)
        addr = self.memory.grant(size, 16)
        if not isinstance(data, int):
            self.memory.view(addr, size, True)[:] = data
        return addr

    def bytes(self, addr: Addr, size: int) -> bytes:
        return bytes(self.memory.view(addr, size))

    def area(self, access: Access) -> str:
        """Which area of the ring an access lies in; "payload" for none."""
        areas = zip(("desc", "driver", "device"), self._areas(), strict=True)
        return next((name for name, (start, size) in areas if access.within(start, size)), "payload")

    def _areas(self) -> Iterator[tuple[int, int]]:
        addrs = (self.addrs.desc, self.addrs.driver, self.addrs.device)
        return zip(addrs, packed_sizes(self.num), strict=True)

    def words(self, side: Watched) -> set[tuple[str, str]]:
        """(act, area) of every ring word that a side touched."""
        return {(access.act.value, self.area(access)) for access in side.log if access.act in (Act.LOAD, Act.STORE)}

    def check(self) -> None:
        self.memory.check()
        for access in (*self.driver_side.log, *self.device_side.log):
            assert access.act is Act.FENCE or any(access.within(*grant) for grant in self.memory.ranges), access
        both = {("load", "desc"), ("store", "desc")}
        assert self.words(self.device_side) <= both | {("load", "driver"), ("store", "device")}
        # Both suppression areas are zeroed once, when the ring is made.
        assert self.words(self.driver_side) <= both | {
            ("store", "driver"),
            ("store", "device"),
            ("load", "device"),
            ("store", "payload"),
        }
