"""The meter of a timed link: it counts the accesses of a device's side to the driver's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from rings.chain import Chain
from rings.layout import DESC_SIZE
from rings.observers.observed import Observer

__all__ = ["PACKED_COSTS", "SPLIT_COSTS", "Meter", "MeterObserver", "RingCosts"]


class Meter(Protocol):
    """Counter of memory accesses that cross a link; ``size`` in bytes."""

    def read(self, size: int, /) -> None: ...

    def write(self, size: int, /) -> None: ...


@attrs.frozen
class RingCosts:
    """Bytes of each ring field that a simple device accesses separately; 0 if the format has no such field."""

    look: int
    """Read to detect new chains."""
    entry: int
    """Read to find a chain's head."""
    used: int
    """Written to complete a chain."""
    index: int
    """Written to publish completed chains."""
    event: int
    """Read to decide whether to call, written to enable kicks."""


SPLIT_COSTS = RingCosts(look=2, entry=2, used=8, index=2, event=2)
PACKED_COSTS = RingCosts(look=DESC_SIZE, entry=0, used=DESC_SIZE, index=0, event=4)


class MeterObserver(Observer):
    """Meters a chain when it is completed; abandoned chains cost nothing.

    The accesses are those of a simple device: one for the descriptors of a chain, one for each of its buffers, and
    one for each ring field. If ``indirect`` tables are negotiated, a chain of several descriptors counts as one table.
    """

    def __init__(self, meter: Meter, costs: RingCosts, *, indirect: bool) -> None:
        self._meter = meter
        self._costs = costs
        self._indirect = indirect
        self._taken: dict[int, tuple[list[int], list[int]]] = {}
        self._unpublished = False

    def took(self, chains: Sequence[Chain], /) -> None:
        if not chains:
            self._meter.read(self._costs.look)
        for head, readable, writable in chains:
            self._taken[head] = [len(seg) for seg in readable], [len(seg) for seg in writable]

    def put_back(self, heads: Sequence[int], /) -> None:
        for head in heads:
            del self._taken[head]

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        for head, written in done:
            self._bill(*self._taken.pop(head), written)
            self._meter.write(self._costs.used)
        self._unpublished = True

    def completed_batch(self, heads: Sequence[int], /) -> None:
        for head in heads:
            self._bill(*self._taken.pop(head), 0)
        self._meter.write(self._costs.used)
        self._unpublished = True

    def _bill(self, readable: Sequence[int], writable: Sequence[int], written: int) -> None:
        meter = self._meter
        count = max(1, len(readable) + len(writable))
        self._access(meter.read, self._costs.entry)
        if count > 1 and self._indirect:
            meter.read(DESC_SIZE)
        meter.read(count * DESC_SIZE)
        for size in readable:
            meter.read(size)
        for size in writable:
            if not written:
                break
            part = min(size, written)
            meter.write(part)
            written -= part

    def published(self) -> None:
        if self._unpublished:
            self._unpublished = False
            self._access(self._meter.write, self._costs.index)
            self._meter.read(self._costs.event)

    @staticmethod
    def _access(act: Callable[[int], None], size: int) -> None:
        if size:
            act(size)

    def kicks_switched(self, enabled: bool, /) -> None:
        if enabled:
            self._meter.write(self._costs.event)
            self._meter.read(self._costs.look)
