"""The two ring formats, a line each: whoever sets a queue up asks here, and nowhere else is one told from the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from rings.errors import RemoteRingError
from rings.features import RingFeature, mask
from rings.layout import (
    MAX_NUM,
    PACKED_ALIGN,
    SPLIT_ALIGN,
    RingAddrs,
    check_packed,
    check_split,
    contiguous_packed,
    contiguous_split,
    packed_sizes,
    split_sizes,
)
from rings.memory import Addr, Memory
from rings.observers.inflight import InflightLog, LoggedVringh
from rings.observers.meter import PACKED_COSTS, SPLIT_COSTS, MeteredVringh, RingCosts
from rings.observers.packed_inflight import PackedLog, packed_log_size
from rings.observers.split_inflight import SplitLog, split_log_size
from rings.packed.ring import FIRST_LAP
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.queue import Meter, Virtqueue, Vringh
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh

__all__ = ["FORMATS", "RING_FEATURES", "RingFormat", "ring_format"]

RING_FEATURES = mask((RingFeature.VERSION_1, RingFeature.INDIRECT_DESC, RingFeature.EVENT_IDX, RingFeature.RING_PACKED))
"""What the rings of either format can do."""


@attrs.frozen
class RingFormat:
    """What has to be known of a format before there is a ring of it."""

    name: str
    sizes: Callable[[int], tuple[int, int, int]]
    """Bytes of the descriptor, driver and device areas of a queue of that many descriptors."""
    align: tuple[int, int, int]
    """Bytes to which each of them is aligned."""
    contiguous: Callable[[int, Addr, int], tuple[RingAddrs, int]]
    """A ring in one piece, of this size, from an address on, its parts at multiples of an alignment; and its bytes."""
    any_num: bool
    """Whether its size need not be a power of two."""
    start: int
    """Where both sides of a new ring stand (see ``base`` of its device's side)."""
    driver: Callable[..., Virtqueue[Any]]
    device: Callable[..., Vringh]
    costs: RingCosts
    written: tuple[bool, bool, bool]
    """Which of the areas a device writes to."""
    check: Callable[[int, RingAddrs], None]
    """Raises BadRing for a size or for areas that no ring can have."""
    log: Callable[..., InflightLog]
    log_size: Callable[[int], int]
    """Bytes of an inflight log of so many entries."""

    def has_num(self, num: int, most: int = MAX_NUM) -> bool:
        """Whether a queue can have this size (VIRTIO 1.4 sections 2.7 and 2.8)."""
        return 1 <= num <= most and (self.any_num or not num & num - 1)

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
        """Make the device's side as negotiated. Raises BadRing or MemoryFault if there can be no such ring."""
        indirect = bool(features >> RingFeature.INDIRECT_DESC & 1)
        event_idx = bool(features >> RingFeature.EVENT_IDX & 1)
        base = self.start if base is None else base
        ring = self.device(memory, num, addrs, event_idx=event_idx, indirect=indirect, base=base, table_max=table_max)
        return ring if meter is None else MeteredVringh(ring, meter, self.costs, indirect=indirect)

    def logged(self, ring: Vringh, memory: memoryview, entries: int) -> LoggedVringh:
        """A ring of this format with an inflight log in ``memory``, at the place where the log ends.

        Raises BadRing for a log that can't be: then ``memory`` is released, and the ring stays the caller's.
        """
        log = self.log(ring, memory, entries)
        try:
            return LoggedVringh(ring, log)
        except RemoteRingError:
            log.close()
            raise


FORMATS: Mapping[str, RingFormat] = {
    "split": RingFormat(
        "split",
        split_sizes,
        SPLIT_ALIGN,
        contiguous_split,
        False,
        0,
        SplitVirtqueue,
        SplitVringh,
        SPLIT_COSTS,
        (False, False, True),
        check_split,
        SplitLog,
        split_log_size,
    ),
    "packed": RingFormat(
        "packed",
        packed_sizes,
        PACKED_ALIGN,
        contiguous_packed,
        True,
        FIRST_LAP,
        PackedVirtqueue,
        PackedVringh,
        PACKED_COSTS,
        (True, False, True),
        check_packed,
        PackedLog,
        packed_log_size,
    ),
}


def ring_format(features: int) -> RingFormat:
    """The one that was negotiated."""
    return FORMATS["packed" if features >> RingFeature.RING_PACKED & 1 else "split"]
