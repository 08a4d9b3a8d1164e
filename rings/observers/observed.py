"""A device-side ring with an observer, which learns what becomes of its chains."""

from __future__ import annotations

from collections.abc import Sequence

from rings.chain import NO_PLAIN, Buffers, Chain, Plain, total
from rings.queue import QueueState, QueueStatistics, Vringh

__all__ = ["ObservedVringh", "Observer"]


class Observer:
    """Watches the device's side of one ring. Each hook does nothing unless an observer defines it.

    A hook follows the call that it reports, and stays out if that call raises. Only `taking` and `publishing` precede
    theirs.
    """

    def taking(self) -> None:
        """Chains are about to be taken, if there are any."""

    def took(self, chains: Sequence[Chain], /) -> None:
        """These chains were taken, before the device acts on them; none if the ring reads as empty."""

    def put_back(self, heads: Sequence[int], /) -> None:
        """The chains taken last were abandoned; ``heads`` begins with the last one."""

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        """These chains, each as (head, bytes written), are used; the driver does not see them yet."""

    def completed_batch(self, heads: Sequence[int], /) -> None:
        """One used element marks these chains as used, without bytes written. By default as `completed`."""
        self.completed([(head, 0) for head in heads])

    def publishing(self) -> None:
        """The completed chains are about to be shown to the driver."""

    def published(self) -> None:
        """All completed chains are shown to the driver."""

    def kicks_switched(self, enabled: bool, /) -> None:
        """Kicks were enabled or suppressed."""

    def closed(self) -> None:
        """The ring's memory was released."""


class ObservedVringh:
    """A `rings.queue.Vringh` that reports to an observer. For several observers, wrap it again."""

    native = False

    def __init__(self, ring: Vringh, observer: Observer) -> None:
        self.ring = ring
        self.observer = observer
        self.num = ring.num

    # Reported to the observer

    def getdescs(self, limit: int, /) -> list[Chain]:
        self.observer.taking()
        chains = self.ring.getdescs(limit)
        self.observer.took(chains)
        return chains

    def getbufs(self, limit: int, /) -> Buffers:
        heads: list[int] = []
        sizes: list[int] = []
        views: list[memoryview] = []
        chains = self.getdescs(limit)
        for at, (head, readable, writable) in enumerate(chains):
            if readable or not writable:
                self.abandon(len(chains) - at)
                break
            heads.append(head)
            sizes.append(total(writable))
            views += writable
        return heads, sizes, views

    def getplain(self, limit: int, writable: bool, /) -> Plain:
        return NO_PLAIN

    def complete_read(self, chains: Sequence[tuple[int, int, int]], count: int, /) -> None:
        self.complete_each([(head, 0) for head, _, _ in chains[:count]])

    def abandon(self, count: int, /) -> Sequence[int]:
        heads = self.ring.abandon(count)
        self.observer.put_back(heads)
        return heads

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self.ring.complete_each(done)
        self.observer.completed(done)

    def complete_batch(self, heads: Sequence[int], /) -> None:
        self.ring.complete_batch(heads)
        self.observer.completed_batch(heads)

    def publish(self) -> bool:
        self.observer.publishing()
        wanted = self.ring.publish()
        self.observer.published()
        return wanted

    def show(self) -> bool:
        self.observer.publishing()
        undecided = self.ring.show()
        self.observer.published()
        return undecided

    def decide(self) -> bool:
        return self.ring.decide()

    def notify_enable(self) -> bool:
        work_left = self.ring.notify_enable()
        self.observer.kicks_switched(True)
        return work_left

    def notify_disable(self) -> None:
        self.ring.notify_disable()
        self.observer.kicks_switched(False)

    def close(self) -> None:
        self.ring.close()
        self.observer.closed()

    # Those of the ring inside

    @property
    def broken(self) -> bool:
        return self.ring.broken

    @property
    def paused(self) -> bool:
        return self.ring.paused

    def pace(self, work: int, /) -> None:
        self.ring.pace(work)

    def spend(self, work: int, /) -> None:
        self.ring.spend(work)

    def in_flight(self) -> Sequence[int]:
        return self.ring.in_flight()

    def latch(self) -> None:
        self.ring.latch()

    def reachable(self) -> bool:
        return self.ring.reachable()

    def state(self) -> QueueState:
        return self.ring.state()

    def statistics(self) -> QueueStatistics:
        return self.ring.statistics()
