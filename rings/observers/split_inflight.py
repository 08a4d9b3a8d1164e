"""The inflight log of a split ring: one entry per descriptor, used for heads of chains."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rings.errors import BadRing
from rings.observers.inflight import VERSION, LogMemory, log_size
from rings.split.vringh import SplitVringh

__all__ = ["SplitLog", "split_log_size"]

HEADER, ENTRY = 16, 16
# Positions in the 16-bit view of the header, and in the 16-bit and 64-bit views of an entry.
_VERSION, _DESC_NUM, _LAST_BATCH, _USED = 4, 5, 6, 7
_NEXT, _COUNTER = 3, 1
split_log_size = partial(log_size, HEADER, ENTRY)


class SplitLog(LogMemory[SplitVringh]):
    """See `rings.observers.inflight.InflightLog`. The ring starts at the used index in the driver's memory."""

    def resume(self) -> Sequence[int]:
        words, quads, num, used = self._words, self._quads, self._ring.num, self._ring.state().used
        if not words[_VERSION]:
            words[_DESC_NUM], words[_USED] = self._entries, used
            words[_VERSION] = VERSION
            return ()
        if words[_VERSION] != VERSION or words[_DESC_NUM] != self._entries:
            raise BadRing(
                f"an inflight log of version {words[_VERSION]} for {words[_DESC_NUM]} descriptors, not {self._entries}"
            )
        # The last batch may be published as used while the log still has it in flight.
        batch = used - words[_USED] & 0xFFFF
        if batch > num:
            raise BadRing(f"an inflight log at used index {words[_USED]}, of a ring at {used}")
        head = words[_LAST_BATCH]
        for _ in range(batch):
            if head >= num:
                raise BadRing(f"an inflight log names descriptor {head} of {num}")
            self._bytes[HEADER + ENTRY * head] = 0
            head = words[(HEADER + ENTRY * head) // 2 + _NEXT]
        words[_USED] = used
        in_flight = sorted(
            (quads[(HEADER + ENTRY * head) // 8 + _COUNTER], head)
            for head in range(self._entries)
            if self._bytes[HEADER + ENTRY * head]
        )
        self._counter = 1 + max((counter for counter, _ in in_flight), default=0) & (1 << 63) - 1
        heads = [head for _, head in in_flight]
        self._ring.resume(heads)
        return heads

    def record(self, heads: Sequence[int]) -> None:
        for head in heads:
            entry = HEADER + ENTRY * head
            self._quads[entry // 8 + _COUNTER] = self._counter
            self._counter += 1
            self._bytes[entry] = 1

    def cancel(self, head: int) -> None:
        self._bytes[HEADER + ENTRY * head] = 0

    def begin_publish(self, heads: Sequence[int]) -> None:
        for head in heads:
            self._words[(HEADER + ENTRY * head) // 2 + _NEXT] = self._words[_LAST_BATCH]
            self._words[_LAST_BATCH] = head

    def end_publish(self, heads: Sequence[int]) -> None:
        for head in heads:
            self._bytes[HEADER + ENTRY * head] = 0
        self._words[_USED] = self._ring.state().used
