"""The device's side of a virtqueue, and somebody who counts what it moves through memory that is not its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from rings.chain import Chain
from rings.layout import DESC_SIZE
from rings.observers.wrapper import AroundVringh
from rings.queue import Meter, Vringh

__all__ = ["PACKED_COSTS", "SPLIT_COSTS", "MeteredVringh", "RingCosts"]


@attrs.frozen
class RingCosts:
    """Bytes of each field of a ring that a plain device accesses by itself; 0 where there is no such field."""

    look: int
    """Read to see whether there is anything."""
    entry: int
    """Read to find the descriptors of a chain."""
    used: int
    """Written to give a chain back."""
    index: int
    """Written to show what was given back."""
    event: int
    """Read to know whether to call, and written to say whether to be kicked."""


SPLIT_COSTS = RingCosts(look=2, entry=2, used=8, index=2, event=2)
PACKED_COSTS = RingCosts(look=DESC_SIZE, entry=0, used=DESC_SIZE, index=0, event=4)


class MeteredVringh(AroundVringh[Vringh]):
    """Any `rings.queue.Vringh`. What a chain moves is counted when it is given back; an abandoned one cost nothing.

    Accesses are what a plain device would do: one for the descriptors of a chain, one for each of its buffers, and
    one for each field of the rings. A chain of several descriptors is taken to lie in a table of its own where
    ``indirect`` tables were negotiated.
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

    def abandon(self, head: int, /) -> None:
        self._ring.abandon(head)
        del self._taken[head]

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
