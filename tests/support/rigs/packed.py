"""One packed ring in guarded memory: the two honest sides, each watched on its own, and the raw one."""

from __future__ import annotations

from rings.formats import FORMATS
from rings.memory import Memory
from rings.packed.ring import at, used
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.testing import RawPackedRing
from support.rigs.ring import RingRig

__all__ = ["PackedRig", "position"]


def position(place: int, num: int) -> int:
    """A place counted over all laps, as it stands in an event suppression area."""
    return at(place % num, 1 - place // num % 2)


class PackedRig(RingRig):
    """With a packed ring, otherwise as `support.rigs.ring.Rig`."""

    AREAS = "desc", "driver", "device"
    PACKED = True

    def __init__(self, num: int = 8, *, event_idx: bool = False, indirect: bool = True, memory: int = 1 << 18) -> None:
        super().__init__(num, event_idx=event_idx, indirect=indirect, memory=memory)
        self.raw = RawPackedRing(self.memory, num, self.addrs)

    def driver(self, *, memory: Memory | None = None, in_order: bool = False) -> PackedVirtqueue:
        driver = FORMATS["packed"].driver(
            memory or self.driver_side,
            self.num,
            self.addrs,
            event_idx=self.event_idx,
            indirect=self.tables,
            indirect_max=4,
            in_order=in_order,
        )
        assert isinstance(driver, PackedVirtqueue)
        return driver

    def device(self, start: int = 0, *, memory: Memory | None = None, table_max: int = 0) -> PackedVringh:
        device = FORMATS["packed"].device(
            memory or self.device_side,
            self.num,
            self.addrs,
            event_idx=self.event_idx,
            indirect=self.indirect,
            base=position(start, self.num),
            table_max=table_max,
        )
        assert isinstance(device, PackedVringh)
        return device

    def pair(self, start: int = 0, *, in_order: bool = False) -> tuple[PackedVirtqueue, PackedVringh]:
        """Both sides anew; ``start``: the place that both have come to, with nothing in flight."""
        driver, device = self.driver(in_order=in_order), self.device(start)
        self.raw.next_avail = self.raw.next_used = start
        driver._slot = driver._used_slot = start % self.num
        driver._lap = driver._used_lap = self.raw.lap(start)
        for place in range(self.num):  # as used descriptors of this lap and of the one before leave it
            done_in = driver._lap ^ (place >= start % self.num)
            driver._desc[2 * place + 1] = used(done_in) << 48
        return driver, device

    def check(self) -> None:
        super().check()
        both = {("load", "desc"), ("store", "desc")}
        assert self.words(self.device_side) <= both | {("load", "driver"), ("store", "device")}
        # Both suppression areas are zeroed once, when the ring is made.
        assert self.words(self.driver_side) <= both | {
            ("store", "driver"),
            ("store", "device"),
            ("load", "device"),
            ("store", "payload"),
        }
