"""The log of chains in flight that outlives a device: another one can go on with them where it ended.

The layout is that of vhost-user's inflight region for split rings. The driver's side keeps the memory and does not
write to it, yet what is found in it is believed no more than anything else of the other side.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from rings.around import AroundVringh
from rings.chain import Chain
from rings.errors import BadRing
from rings.split.vringh import SplitVringh

__all__ = ["InflightLog", "LoggedVringh", "Resumption", "log_size"]

HEADER, ENTRY, ALIGN = 16, 16, 64
VERSION = 1
# Positions in the 16-bit view of the header, and in those of an entry.
_VERSION, _DESC_NUM, _LAST_BATCH, _USED = 4, 5, 6, 7
_NEXT, _COUNTER = 3, 1


def log_size(num: int) -> int:
    """Bytes of the log of a queue of ``num`` descriptors."""
    return -(-(HEADER + ENTRY * num) // ALIGN) * ALIGN


@attrs.frozen
class Resumption:
    """Where a device has to go on."""

    used: int
    """Index of the used ring."""
    again: tuple[int, ...]
    """Heads that were taken and not given back, in the order in which they were taken."""


class InflightLog:
    """The log of one queue: typed views of its memory, to be released with `close`."""

    def __init__(self, memory: memoryview, num: int) -> None:
        """``memory`` of `log_size` bytes; zeroes where the log is new."""
        self.num = num
        self._bytes = memory.cast("B")
        self._words = self._bytes.cast("H")
        self._quads = self._bytes.cast("Q")
        self._counter = 1

    def close(self) -> None:
        """Any later use raises ValueError."""
        for view in (self._quads, self._words, self._bytes):
            view.release()

    def recover(self, used: int) -> Resumption:
        """What the device before left, given the used index that the ring has now. Raises BadRing for nonsense.

        The last batch may have been shown as used without being struck off: then it is, now.
        """
        words, quads, num = self._words, self._quads, self.num
        if not words[_VERSION]:
            words[_DESC_NUM], words[_USED] = num, used
            words[_VERSION] = VERSION
            return Resumption(used, ())
        if words[_VERSION] != VERSION or words[_DESC_NUM] != num:
            raise BadRing(f"an inflight log of version {words[_VERSION]} for {words[_DESC_NUM]} descriptors, not {num}")
        batch = used - words[_USED] & 0xFFFF
        if batch > num:
            raise BadRing(f"an inflight log at used index {words[_USED]}, of a ring that is at {used}")
        head = words[_LAST_BATCH]
        for _ in range(batch):
            if head >= num:
                raise BadRing(f"an inflight log names descriptor {head} of {num}")
            self._bytes[HEADER + ENTRY * head] = 0
            head = words[(HEADER + ENTRY * head) // 2 + _NEXT]
        words[_USED] = used
        found = [
            (quads[(HEADER + ENTRY * head) // 8 + _COUNTER], head)
            for head in range(num)
            if self._bytes[HEADER + ENTRY * head]
        ]
        self._counter = 1 + max((counter for counter, _ in found), default=0) & (1 << 63) - 1
        return Resumption(used, tuple(head for _, head in sorted(found)))

    def took(self, head: int) -> None:
        entry = HEADER + ENTRY * head
        self._quads[entry // 8 + _COUNTER] = self._counter
        self._counter += 1
        self._bytes[entry] = 1

    def untook(self, head: int) -> None:
        self._bytes[HEADER + ENTRY * head] = 0

    def gives(self, head: int) -> None:
        """It is in the used ring, and not shown yet."""
        self._words[(HEADER + ENTRY * head) // 2 + _NEXT] = self._words[_LAST_BATCH]
        self._words[_LAST_BATCH] = head

    def gave(self, heads: Sequence[int], used: int) -> None:
        """All of these were shown: the used index is ``used`` now."""
        for head in heads:
            self._bytes[HEADER + ENTRY * head] = 0
        self._words[_USED] = used


class LoggedVringh(AroundVringh[SplitVringh]):
    """A `rings.queue.Vringh` that writes down what it takes before anybody acts on it."""

    def __init__(self, ring: SplitVringh, log: InflightLog, resumption: Resumption) -> None:
        """Raises BadRing for a resumption that can't be."""
        ring.resume(resumption.used, resumption.again)
        super().__init__(ring)
        self._log = log
        self._left = set(resumption.again)  # what another device left, and this one has not given back
        self._batch: list[int] = []

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains = self._ring.getdescs(limit)
        for head, _, _ in chains:
            self._log.took(head)
        return chains

    def abandon(self, head: int, /) -> None:
        self._ring.abandon(head)
        if head not in self._left:
            self._log.untook(head)

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self._ring.complete_each(done)
        for head, _ in done:
            self._log.gives(head)
            self._left.discard(head)
            self._batch.append(head)

    def publish(self) -> bool:
        wanted = self._ring.publish()
        if self._batch:
            self._log.gave(self._batch, self._ring.state().used)
            self._batch.clear()
        return wanted

    def close(self) -> None:
        super().close()
        self._log.close()
