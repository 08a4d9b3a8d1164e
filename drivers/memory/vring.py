"""The memory of a device's queues: rings and indirect tables, allocated at set-up and freed together."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from drivers.contracts.hw import DmaBuffer, DmaMemory
from drivers.errors import ProbeError
from drivers.memory.pool import page_bytes
from rings.features import RingFeature
from rings.formats import RingFormat, ring_format
from rings.layout import DESC_SIZE, RingAddrs, split_sizes
from rings.memory import Addr
from rings.queue import Virtqueue

__all__ = ["Vring", "VringMemory", "ring_memory"]

CACHE_LINE = 64


def ring_memory(num: int, segments: int = 1) -> int:
    """Return the maximum bytes of memory of a ring of ``num`` descriptors with its indirect tables.

    ``segments`` is that of `VringMemory.make`. The result is for the split format, which needs more than the packed.
    """
    tables = num * min(segments, num) * DESC_SIZE if segments > 1 else 0
    return page_bytes(*split_sizes(num), tables)


@attrs.frozen
class Vring:
    """A driver's ring, with its size and addresses for the device."""

    ring: Virtqueue
    num: int
    addrs: RingAddrs
    buffers: tuple[DmaBuffer, ...]
    """The memory of ring and tables; without a ring that the caller has placed."""


class VringMemory:
    """Allocator of a front half's rings and indirect tables."""

    def __init__(self, dma: DmaMemory) -> None:
        self._dma = dma
        self._buffers: list[DmaBuffer] = []
        self._vrings: list[Vring] = []

    def make(
        self,
        features: int,
        num_max: int,
        limit: int | None,
        segments: int,
        name: str,
        align: int | None = None,
        place: Callable[[int], RingAddrs] | None = None,
    ) -> Vring:
        """Return a new ring of ``num_max`` descriptors, the device's maximum, or of ``limit`` if that is smaller.

        The longest chain has ``segments`` descriptors. With ``align`` the ring is contiguous, its used ring at a
        multiple of ``align`` (section 2.7.2). With ``place``, which maps a size to addresses, the ring lies in memory
        that the caller has zeroed. Raises ProbeError for an invalid ``num_max``.
        """
        form = ring_format(features)
        if not form.has_num(num_max):
            raise ProbeError(f"{name}: the device reports a queue size of {num_max}")
        num = min(num_max, limit or num_max)
        if not form.any_num:
            num = 1 << (num.bit_length() - 1)
        first = len(self._buffers)
        if place is not None:
            addrs = place(num)
        else:
            addrs = self._areas(form, num) if align is None else self._contiguous(form, num, align)
        tables = None
        if features >> RingFeature.INDIRECT_DESC & 1 and segments > 1:
            tables = self._alloc(num * min(segments, num) * DESC_SIZE, DESC_SIZE)
        ring = form.driver(
            self._dma,
            num,
            addrs,
            event_idx=bool(features >> RingFeature.EVENT_IDX & 1),
            indirect=tables,
            indirect_max=segments,
            in_order=bool(features >> RingFeature.IN_ORDER & 1),
        )
        vring = Vring(ring, num, addrs, tuple(self._buffers[first:]))
        self._vrings.append(vring)
        return vring

    def free(self) -> None:
        """Close the rings, and free all memory, which the device must not access any more."""
        while self._vrings:
            self._vrings.pop().ring.close()
        while self._buffers:
            self._dma.free(self._buffers.pop())

    def free_ring(self, ring: Virtqueue) -> None:
        """Close one ring, and free its memory, likewise. Raises ValueError if it has none."""
        [vring] = [each for each in self._vrings if each.ring is ring]
        self._vrings.remove(vring)
        ring.close()
        for buffer in vring.buffers:
            self._buffers.remove(buffer)
            self._dma.free(buffer)

    def _areas(self, form: RingFormat, num: int) -> RingAddrs:
        return RingAddrs(*(self._alloc(size, at) for size, at in zip(form.sizes(num), form.align, strict=True)))

    def _contiguous(self, form: RingFormat, num: int, align: int) -> RingAddrs:
        _, size = form.contiguous(num, Addr(0), align)
        return form.contiguous(num, self._alloc(size, align), align)[0]

    def _alloc(self, size: int, align: int) -> Addr:
        buffer = self._dma.alloc(size, max(align, CACHE_LINE))
        self._buffers.append(buffer)
        return buffer.addr
