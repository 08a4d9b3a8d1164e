"""The split and packed formats; `ring_format` picks the negotiated one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from rings.errors import RemoteRingError
from rings.features import OF_RINGS, PLATFORM, RingFeature, mask
from rings.layout import (
    MAX_NUM,
    PACKED_ALIGN,
    SPLIT_ALIGN,
    RingAddrs,
    check_packed,
    check_split,
    packed_sizes,
    split_sizes,
)
from rings.memory import Addr, Memory
from rings.native import NATIVE
from rings.observers.inflight import InflightLog, InflightObserver
from rings.observers.meter import PACKED_COSTS, SPLIT_COSTS, Meter, MeterObserver, RingCosts
from rings.observers.observed import ObservedVringh
from rings.observers.packed_inflight import PackedLog, packed_log_size
from rings.observers.split_inflight import SplitLog, split_log_size
from rings.packed.ring import FIRST_LAP
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.queue import Virtqueue, Vringh
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh
from rings.view import RingView, view_packed, view_split

__all__ = ["FORMATS", "ON_REQUEST", "RING_FEATURES", "RingFormat", "ring_format"]

RING_FEATURES = OF_RINGS | mask((RingFeature.RING_PACKED,))
"""Feature bits that the rings of both formats support."""
ON_REQUEST = PLATFORM | mask((RingFeature.IN_ORDER, RingFeature.NOTIFICATION_DATA, RingFeature.NOTIF_CONFIG_DATA))
"""Feature bits that a device offers only if its user wants it to; a driver accepts them if its transport can."""


@attrs.frozen
class RingFormat:
    """Layout, limits and constructors of a ring format."""

    name: str
    sizes: Callable[[int], tuple[int, int, int]]
    """Size in bytes of the descriptor, driver and device areas, by queue size."""
    align: tuple[int, int, int]
    """Alignment in bytes of these areas."""
    any_num: bool
    """Whether sizes other than powers of two are allowed."""
    start: int
    """Initial position of both sides of a new ring (see ``base`` of its device's side)."""
    driver: Callable[..., Virtqueue]
    device: Callable[..., Vringh]
    costs: RingCosts
    written: tuple[bool, bool, bool]
    """Whether the device writes to the descriptor, driver and device areas."""
    check: Callable[[int, RingAddrs], None]
    """Raises BadRing if the size or the areas are invalid."""
    resume: Callable[..., None]
    """Continues the work of another device's side on a new one, by its used position and the heads of its chains in
    flight, which are taken again. Raises BadRing if they are invalid."""
    view: Callable[[Memory, int, RingAddrs, int, int], RingView]
    """Returns a ring as it stands in memory, by its size, its addresses, the negotiated features, and the position that
    is used next. An unreachable ring has a fault."""
    log: Callable[..., InflightLog]
    log_size: Callable[[int], int]
    """Bytes of an inflight log, by its number of entries."""

    def has_num(self, num: int, num_max: int = MAX_NUM) -> bool:
        """Return whether ``num`` is a valid queue size (VIRTIO 1.4 sections 2.7 and 2.8)."""
        return 1 <= num <= num_max and (self.any_num or not num & num - 1)

    def contiguous(self, num: int, start: Addr, align: int) -> tuple[RingAddrs, int]:
        """Return the layout of a ring that is contiguous from ``start``, and its size in bytes.

        The device area is at the next multiple of ``align``, as legacy transports have it (section 2.7.2). A packed
        ring is never larger than a split ring of the same size.
        """
        desc, driver, device = self.sizes(num)
        rest = -(-(desc + driver) // align) * align
        return RingAddrs(start, Addr(start + desc), Addr(start + rest)), rest + device

    def vringh(
        self,
        memory: Memory,
        num: int,
        addrs: RingAddrs,
        features: int,
        *,
        base: int | None = None,
        meter: Meter | None,
        table_max: int = 0,
    ) -> Vringh:
        """Return a device's side with the negotiated features. Raises BadRing or MemoryFault for an invalid ring.

        A memory that has to follow what the device does with its buffers has a method ``observe``, which returns the
        side with an observer of its own.
        """
        indirect = bool(features >> RingFeature.INDIRECT_DESC & 1)
        event_idx = bool(features >> RingFeature.EVENT_IDX & 1)
        base = self.start if base is None else base
        ring = self.device(memory, num, addrs, event_idx=event_idx, indirect=indirect, base=base, table_max=table_max)
        observe: Callable[[Vringh], Vringh] | None = getattr(memory, "observe", None)
        if observe is not None:
            ring = observe(ring)
        if meter is None:
            return ring
        return ObservedVringh(ring, MeterObserver(meter, self.costs, indirect=indirect))

    def with_log(self, ring: Vringh, memory: memoryview, entries: int) -> ObservedVringh:
        """Return ``ring`` with an inflight log in ``memory``, resumed at the state in the log.

        Raises BadRing for an invalid log: then ``memory`` is released, and the caller still owns the ring.
        """
        log = self.log(ring, memory, entries)
        try:
            return ObservedVringh(ring, InflightObserver(log))
        except RemoteRingError:
            log.close()
            raise


def _resume_split(ring: SplitVringh, used: int, heads: Sequence[int]) -> None:
    """The ring starts at its used index, which is in the ring itself."""
    ring.resume(heads)


def _resume_packed(ring: PackedVringh, used: int, heads: Sequence[int]) -> None:
    """The driver's descriptors in flight follow the used position: the heads are not needed."""
    ring.resume(used, ())


def _view_split(memory: Memory, num: int, addrs: RingAddrs, features: int, used: int) -> RingView:
    """The position is in the ring itself."""
    return view_split(memory, num, addrs, event_idx=bool(features >> RingFeature.EVENT_IDX & 1))


def _view_packed(memory: Memory, num: int, addrs: RingAddrs, features: int, used: int) -> RingView:
    return view_packed(memory, num, addrs, used)


def _sides() -> Mapping[str, tuple[Callable[..., Virtqueue], Callable[..., Vringh]]]:
    """Return the driver's and the device's side of each format: native ones if there are."""
    if not NATIVE:
        return {"split": (SplitVirtqueue, SplitVringh), "packed": (PackedVirtqueue, PackedVringh)}
    from rings.packed.native import NativePackedVirtqueue, NativePackedVringh
    from rings.split.native import NativeSplitVirtqueue, NativeSplitVringh

    return {
        "split": (NativeSplitVirtqueue, NativeSplitVringh),
        "packed": (NativePackedVirtqueue, NativePackedVringh),
    }


_SIDES = _sides()
FORMATS: Mapping[str, RingFormat] = {
    "split": RingFormat(
        name="split",
        sizes=split_sizes,
        align=SPLIT_ALIGN,
        any_num=False,
        start=0,
        driver=_SIDES["split"][0],
        device=_SIDES["split"][1],
        costs=SPLIT_COSTS,
        written=(False, False, True),
        check=check_split,
        resume=_resume_split,
        view=_view_split,
        log=SplitLog,
        log_size=split_log_size,
    ),
    "packed": RingFormat(
        name="packed",
        sizes=packed_sizes,
        align=PACKED_ALIGN,
        any_num=True,
        start=FIRST_LAP,
        driver=_SIDES["packed"][0],
        device=_SIDES["packed"][1],
        costs=PACKED_COSTS,
        written=(True, False, True),
        check=check_packed,
        resume=_resume_packed,
        view=_view_packed,
        log=PackedLog,
        log_size=packed_log_size,
    ),
}
"""Ring formats by name."""


def ring_format(features: int) -> RingFormat:
    """Return the negotiated ring format."""
    return FORMATS["packed" if features >> RingFeature.RING_PACKED & 1 else "split"]
