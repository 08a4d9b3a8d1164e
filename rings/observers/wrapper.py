"""Base class of observers: a device-side ring that forwards all calls to the ring inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from rings.batch import BatchVringh
from rings.chain import Chain
from rings.queue import QueueState, QueueStatistics, Vringh

__all__ = ["VringhWrapper"]

V = TypeVar("V", bound=Vringh)


class VringhWrapper(BatchVringh, Generic[V]):
    """A `rings.queue.Vringh` that forwards to the ring inside."""

    def __init__(self, ring: V) -> None:
        self._ring = ring
        self.num = ring.num
        self.broken = ring.broken

    def getdescs(self, limit: int, /) -> list[Chain]:
        return self._ring.getdescs(limit)

    def abandon(self, count: int, /) -> Sequence[int]:
        return self._ring.abandon(count)

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self._ring.complete_each(done)

    def pace(self, work: int, /) -> None:
        self._ring.pace(work)

    def spend(self, work: int, /) -> None:
        self._ring.spend(work)

    @property
    def paused(self) -> bool:
        return self._ring.paused

    def publish(self) -> bool:
        return self._ring.publish()

    def notify_enable(self) -> bool:
        return self._ring.notify_enable()

    def notify_disable(self) -> None:
        self._ring.notify_disable()

    def in_flight(self) -> Sequence[int]:
        return self._ring.in_flight()

    def latch(self) -> None:
        self._ring.latch()
        self.broken = True

    def reachable(self) -> bool:
        return self._ring.reachable()

    def close(self) -> None:
        self._ring.close()
        self.broken = True

    def state(self) -> QueueState:
        return self._ring.state()

    def statistics(self) -> QueueStatistics:
        return self._ring.statistics()
