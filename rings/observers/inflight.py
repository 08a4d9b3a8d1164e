"""The log of chains in flight, with which the next device can resume after a crash.

The layouts are those of vhost-user's inflight region, one per ring format. The front end keeps that memory and does not
write to it, but a device still validates the contents like all data from the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from rings.chain import Chain
from rings.observers.observed import Observer
from rings.queue import Vringh

__all__ = ["InflightLog", "InflightObserver", "LogMemory", "log_size"]

ALIGN = 64
VERSION = 1
"""Version of both layouts; 0 in a new log."""


def log_size(header: int, entry: int, entries: int) -> int:
    """Return the bytes of a log with ``entries`` entries."""
    return -(-(header + entry * entries) // ALIGN) * ALIGN


class InflightLog(Protocol):
    """The log of one ring. A device may be killed before any store; `resume` in the next one repairs the log."""

    def resume(self) -> Sequence[int]:
        """Move the ring to the previous device's state. Returns the heads to take again, in their original order.

        Raises BadRing for an invalid log.
        """

    def record(self, heads: Sequence[int], /) -> None:
        """Log the chains of the ring's last `getdescs`, before the device acts on them."""

    def cancel(self, head: int, /) -> None:
        """Remove the chain taken last, which is abandoned."""

    def begin_publish(self, heads: Sequence[int], /) -> None:
        """Log that these chains are about to be published as used."""

    def end_publish(self, heads: Sequence[int], /) -> None:
        """Remove these chains, which are published as used."""

    def close(self) -> None:
        """Release the log's memory; later use raises ValueError."""


R = TypeVar("R", bound=Vringh)


class LogMemory(Generic[R]):
    """Base of the logs of both formats: typed views of the log of ``ring``, of ``entries`` entries."""

    def __init__(self, ring: R, memory: memoryview, entries: int) -> None:
        """Use ``memory``, zeroed in a new log; ``entries`` is at least the ring's size."""
        self._ring = ring
        self._entries = entries
        self._bytes = memory.cast("B")
        self._words = self._bytes.cast("H")
        self._quads = self._bytes.cast("Q")
        self._counter = 1

    def close(self) -> None:
        for view in (self._quads, self._words, self._bytes):
            view.release()


class InflightObserver(Observer):
    """Keeps an `InflightLog`, which costs a few stores per chain."""

    def __init__(self, log: InflightLog) -> None:
        """Resume the ring of ``log``. On BadRing, the caller closes both."""
        self._log = log
        self._resumed = set(log.resume())
        """Heads taken by the previous device and not completed yet; they keep their entries in the log."""
        self._batch: list[int] = []

    def took(self, chains: Sequence[Chain], /) -> None:
        # A batch has either resumed or new chains, never both.
        if chains and chains[0][0] not in self._resumed:
            self._log.record([head for head, _, _ in chains])

    def put_back(self, heads: Sequence[int], /) -> None:
        for head in heads:
            if head not in self._resumed:
                self._log.cancel(head)

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        self._batch += [head for head, _ in done]

    def publishing(self) -> None:
        if self._batch:
            self._log.begin_publish(self._batch)

    def published(self) -> None:
        if self._batch:
            self._log.end_publish(self._batch)
            self._resumed.difference_update(self._batch)
            self._batch = []

    def closed(self) -> None:
        self._log.close()
