"""A device-side ring whose buffers are used in the order in which the driver made them available (VIRTIO_F_IN_ORDER).

It sits outside of all observers: to the ring and to them, a chain that waits for an older one is still in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rings.chain import Buffers, Chain, Plain
from rings.errors import LocalRingError
from rings.observers.observed import ObservedVringh, Observer
from rings.queue import Vringh

__all__ = ["InOrderVringh"]

WAITING = -1
"""Bytes written to a chain that the device has not completed."""


class InOrderVringh(ObservedVringh):
    """Holds completions back until those of all older chains are there (VIRTIO 1.4 section 6.2)."""

    def __init__(self, ring: Vringh, *, batches: bool) -> None:
        """``batches``: mark several chains without writable buffers by one used element."""
        super().__init__(ring, Observer())
        if ring.native:
            self.native = True  # else the class's: an overlay takes an equal attribute for that, and would remove it
        self._batches = batches
        self._order: deque[int] = deque()
        """Heads of the chains in flight, oldest first."""
        self._written: dict[int, int] = {}
        """Bytes written by head, or `WAITING`."""
        self._readable: set[int] = set()
        """Heads of the chains in flight without writable buffers."""

    # Taken

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains = self.ring.getdescs(limit)
        self._take([head for head, _, _ in chains])
        self._readable.update([head for head, _, writable in chains if not writable])
        return chains

    def getbufs(self, limit: int, /) -> Buffers:
        buffers = self.ring.getbufs(limit)
        self._take(buffers[0])
        return buffers

    def getplain(self, limit: int, writable: bool, /) -> Plain:
        plain = self.ring.getplain(limit, writable)
        heads = [head for head, _, _ in plain[1]]
        self._take(heads)
        if not writable:
            self._readable.update(heads)
        return plain

    def _take(self, heads: Sequence[int]) -> None:
        self._order.extend(heads)
        self._written.update(dict.fromkeys(heads, WAITING))

    def abandon(self, count: int, /) -> Sequence[int]:
        order = self._order
        if count > len(order) or any(self._written[order[-1 - at]] != WAITING for at in range(count)):
            raise LocalRingError(f"{count} chains abandoned, but not all of them are in flight")
        heads = self.ring.abandon(count)
        for head in heads:
            order.pop()
            del self._written[head]
            self._readable.discard(head)
        return heads

    def in_flight(self) -> Sequence[int]:
        """Return the heads as the ring does, in the order in which they have to be used."""
        return [*self._order, *(head for head in self.ring.in_flight() if head not in self._written)]

    # Completed

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        for head, written in done:
            if self._written.get(head) != WAITING:
                raise LocalRingError(f"descriptor {head} was not taken")
            self._written[head] = written
        self._use()

    def complete_batch(self, heads: Sequence[int], /) -> None:
        self.complete_each([(head, 0) for head in heads])

    def _use(self) -> None:
        """Use the oldest chains, as far as they are completed."""
        order, results, readable = self._order, self._written, self._readable
        single: list[tuple[int, int]] = []
        batch: list[int] = []
        while order and (written := results[order[0]]) != WAITING:
            head = order.popleft()
            del results[head]
            if head in readable:
                readable.remove(head)
                if self._batches and not written:
                    if single:
                        self.ring.complete_each(single)
                        single = []
                    batch.append(head)
                    continue
            if batch:
                self.ring.complete_batch(batch)
                batch = []
            single.append((head, written))
        if single:
            self.ring.complete_each(single)
        if batch:
            self.ring.complete_batch(batch)
