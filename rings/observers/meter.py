"""A device-side ring that reports its memory accesses to a meter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from rings.chain import Chain
from rings.layout import DESC_SIZE
from rings.observers.wrapper import VringhWrapper
from rings.queue import Meter, Vringh

__all__ = ["PACKED_COSTS", "SPLIT_COSTS", "MeteredVringh", "RingCosts"]


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


class MeteredVringh(VringhWrapper[Vringh]):
    """Any `rings.queue.Vringh`. Meters a chain when it is completed; abandoned chains cost nothing.

    The accesses are those of a simple device: one for the descriptors of a chain, one for each of its buffers, and
    one for each ring field. If ``indirect`` tables are negotiated, a chain of several descriptors counts as one table.
    """

    def __init__(self, ring: Vringh, meter: Meter, costs: RingCosts, *, indirect: bool) -> None:
        super().__init__(ring)
        self._meter = meter
        self._costs = costs
        self._indirect = indirect
        self._taken: dict[int, tuple[list[int], list[int]]] = {}
        self._unpublished = False

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains = self._ring.getdescs(limit)
        if not chains:
            self._meter.read(self._costs.look)
        for head, readable, writable in chains:
            self._taken[head] = [len(seg) for seg in readable], [len(seg) for seg in writable]
        return chains

    def abandon(self, count: int, /) -> Sequence[int]:
        heads = self._ring.abandon(count)
        for head in heads:
            del self._taken[head]
        return heads

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self._ring.complete_each(done)
        for head, written in done:
            self._bill(*self._taken.pop(head), written)
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
        meter.write(self._costs.used)

    def publish(self) -> bool:
        wanted = self._ring.publish()
        if self._unpublished:
            self._unpublished = False
            self._access(self._meter.write, self._costs.index)
            self._meter.read(self._costs.event)
        return wanted

    @staticmethod
    def _access(act: Callable[[int], None], size: int) -> None:
        if size:
            act(size)

    def notify_enable(self) -> bool:
        self._meter.write(self._costs.event)
        self._meter.read(self._costs.look)
        return self._ring.notify_enable()
