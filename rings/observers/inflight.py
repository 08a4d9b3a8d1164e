"""A device-side ring that logs chains in flight, so that the next device can resume after a crash.

The layouts are those of vhost-user's inflight region, one per ring format. The front end keeps that memory and does not
write to it, but a device still validates the contents like all data from the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rings.chain import Chain
from rings.observers.wrapper import VringhWrapper
from rings.queue import Vringh

__all__ = ["InflightLog", "LoggedVringh", "log_size"]

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


class LoggedVringh(VringhWrapper[Vringh]):
    """A `rings.queue.Vringh` with an `InflightLog`, which costs a few stores per chain."""

    def __init__(self, ring: Vringh, log: InflightLog) -> None:
        """Resume ``ring`` from ``log``. On BadRing, the caller closes both."""
        super().__init__(ring)
        self._log = log
        self._resumed = set(log.resume())
        """Heads taken by the previous device and not completed yet; they keep their entries in the log."""
        self._batch: list[int] = []

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains = self._ring.getdescs(limit)
        # A batch has either resumed or new chains, never both.
        if chains and chains[0][0] not in self._resumed:
            self._log.record([head for head, _, _ in chains])
        return chains

    def abandon(self, count: int, /) -> Sequence[int]:
        heads = self._ring.abandon(count)
        for head in heads:
            if head not in self._resumed:
                self._log.cancel(head)
        return heads

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self._ring.complete_each(done)
        self._batch += [head for head, _ in done]

    def publish(self) -> bool:
        if not self._batch:
            return self._ring.publish()
        self._log.begin_publish(self._batch)
        wanted = self._ring.publish()
        self._log.end_publish(self._batch)
        self._resumed.difference_update(self._batch)
        self._batch = []
        return wanted

    def close(self) -> None:
        super().close()
        self._log.close()
