"""A device's side that logs what is in flight, so that the next device goes on where this one ended.

The layouts are those of vhost-user's inflight region, one for each ring format. The driver's side keeps that memory and
does not write to it, yet what a device finds there is checked like everything else of the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rings.chain import Chain
from rings.observers.wrapper import AroundVringh
from rings.queue import Vringh

__all__ = ["InflightLog", "LoggedVringh", "log_size"]

ALIGN = 64
VERSION = 1
"""Of either layout; 0 in a log that no device has used yet."""


def log_size(header: int, entry: int, entries: int) -> int:
    """Bytes of a log of so many entries."""
    return -(-(header + entry * entries) // ALIGN) * ALIGN


class InflightLog(Protocol):
    """The log of one ring. A device may be killed before any store; `resume` of the next one mends that."""

    def resume(self) -> Sequence[int]:
        """Move the ring to where the device before ended, and return the heads that it takes again, first come first.

        Raises BadRing for a log that no device can have left.
        """

    def took(self, heads: Sequence[int], /) -> None:
        """Log the chains that the ring's last `getdescs` gave, before the device acts on them."""

    def untook(self, head: int, /) -> None:
        """The chain taken last goes back untouched."""

    def shows(self, heads: Sequence[int], /) -> None:
        """These chains are about to be shown to the driver as used."""

    def shown(self, heads: Sequence[int], /) -> None:
        """The driver sees them as used."""

    def close(self) -> None:
        """Release the log's memory; any later use raises ValueError."""


class LoggedVringh(AroundVringh[Vringh]):
    """A `rings.queue.Vringh` that keeps an `InflightLog`, which costs a few stores for each chain."""

    def __init__(self, ring: Vringh, log: InflightLog) -> None:
        """Goes on where the log ends. Raises BadRing; then the caller closes both."""
        super().__init__(ring)
        self._log = log
        self._left = set(log.resume())
        """What another device took, and this one has not given back: it keeps its place in the log."""
        self._batch: list[int] = []

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains = self._ring.getdescs(limit)
        # A batch is either all taken again or all new.
        if chains and chains[0][0] not in self._left:
            self._log.took([head for head, _, _ in chains])
        return chains

    def abandon(self, head: int, /) -> None:
        self._ring.abandon(head)
        if head not in self._left:
            self._log.untook(head)

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self._ring.complete_each(done)
        self._batch += [head for head, _ in done]

    def publish(self) -> bool:
        if not self._batch:
            return self._ring.publish()
        self._log.shows(self._batch)
        wanted = self._ring.publish()
        self._log.shown(self._batch)
        self._left.difference_update(self._batch)
        self._batch = []
        return wanted

    def close(self) -> None:
        super().close()
        self._log.close()
