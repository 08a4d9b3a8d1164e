"""The dirty page log: pages that a device writes to while the front end migrates the memory.

The log has vhost's layout, one bit per page of the driver's addresses: bit ``page % 8`` of byte ``page // 8``. The
front end clears bits meanwhile, and devices in other processes set others. So we store whole bytes of ones, which needs
no atomic OR to keep their bits, and marks up to eight pages for one written page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rings.chain import Chain, total
from rings.errors import LocalRingError
from rings.memory import Addr, Memory
from rings.observers.observed import Observer

__all__ = ["DirtyLog", "DirtyObserver", "Range", "WriteRecorder", "dirty_log_size"]

PAGE = 4096
SPAN = 8 * PAGE
"""Bytes of memory per byte of the log."""
Range = tuple[int, int]
"""Address and size in bytes."""


def dirty_log_size(end: int) -> int:
    """Return the bytes of a log for addresses below ``end``."""
    return -(-end // SPAN)


class DirtyLog:
    """A dirty log in a flat byte view. ``on_mark`` is called after each published batch."""

    def __init__(self, memory: memoryview, on_mark: Callable[[], None] = lambda: None) -> None:
        self._memory = memory
        self.notify = on_mark

    def covers(self, addr: int, size: int) -> bool:
        """Return whether the log has bits for the whole range."""
        return 0 <= addr and 0 <= size and dirty_log_size(addr + size) <= len(self._memory)

    def mark(self, addr: int, size: int) -> None:
        """Mark the pages of these bytes, after a write. Raises LocalRingError if the log does not cover them."""
        if not size:
            return
        if not self.covers(addr, size):
            raise LocalRingError(f"{size} bytes at {addr:#x} are beyond the dirty log")
        first, end = addr // SPAN, dirty_log_size(addr + size)
        if first + 1 == end:
            self._memory[first] = 0xFF
        else:
            self._memory[first:end] = b"\xff" * (end - first)


class WriteRecorder:
    """A `rings.memory.Memory` that records the ranges of writable views."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.writes: list[Range] = []
        self.pin, self.unpin, self.fence = memory.pin, memory.unpin, memory.fence

    def view(self, addr: Addr, size: int, writable: bool = False, /) -> memoryview:
        view = self._memory.view(addr, size, writable)
        if writable:
            self.writes.append((addr, size))
        return view

    def segments(self, addr: Addr, size: int, writable: bool = False, /) -> list[memoryview]:
        views = self._memory.segments(addr, size, writable)
        if writable:
            self.writes.append((addr, size))
        return views


class DirtyObserver(Observer):
    """Marks all that a device may have written: the buffers of chains that are completed or abandoned, or in flight
    when the ring closes, and the ring areas that a device writes.

    Whole buffers are marked, because a device may state a smaller length than it wrote.
    """

    def __init__(self, log: DirtyLog, memory: WriteRecorder, areas: Sequence[Range]) -> None:
        """Watch a ring that was made with ``memory``; ``areas`` are the ring areas that its device writes."""
        self._log = log
        self._memory = memory
        self._areas = areas
        self._taken: dict[int, list[Range]] = {}

    def taking(self) -> None:
        self._memory.writes.clear()

    def took(self, chains: Sequence[Chain], /) -> None:
        # The ranges were recorded in the order of the chains; a bad chain may have left more of them at the end.
        writes = iter(self._memory.writes)
        for head, _, writable in chains:
            ranges: list[Range] = []
            size = total(writable)
            while size:
                ranges.append(next(writes))
                size -= ranges[-1][1]
            self._taken[head] = ranges

    def put_back(self, heads: Sequence[int], /) -> None:
        self._mark(heads)

    def completed(self, done: Sequence[tuple[int, int]], /) -> None:
        self._mark([head for head, _ in done])
        self._mark_ring()

    def published(self) -> None:
        self._mark_ring()
        self._log.notify()

    def kicks_switched(self, enabled: bool, /) -> None:
        self._mark_ring()

    def closed(self) -> None:
        """Mark the chains still in flight: the device may have written to them."""
        self._mark(list(self._taken))

    def _mark(self, heads: Sequence[int]) -> None:
        # Writes become visible before the mark. Pairs with the atomic exchange by which the front end reads the log.
        self._memory.fence()
        for head in heads:
            for addr, size in self._taken.pop(head):
                self._log.mark(addr, size)

    def _mark_ring(self) -> None:
        for addr, size in self._areas:
            self._log.mark(addr, size)
