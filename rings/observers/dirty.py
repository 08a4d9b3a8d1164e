"""The dirty page log: pages that a device writes to while the front end migrates the memory.

The log has vhost's layout, one bit per page of the driver's addresses: bit ``page % 8`` of byte ``page // 8``. The
front end clears bits meanwhile, and devices in other processes set others. So we store whole bytes of ones, which needs
no atomic OR to keep their bits, and marks up to eight pages for one written page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rings.chain import Chain
from rings.errors import LocalRingError, MemoryFault, RemoteRingError
from rings.memory import Addr, Memory
from rings.observers.wrapper import VringhWrapper
from rings.queue import Vringh

__all__ = ["DirtyLog", "DirtyVringh", "Range", "WriteRecorder", "dirty_log_size"]

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
        self.on_mark = on_mark

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


class DirtyVringh(VringhWrapper[Vringh]):
    """A `rings.queue.Vringh` that marks all that its device may have written: the buffers of chains that are completed
    or abandoned, or in flight when the ring closes, and the ring areas that a device writes.

    Whole buffers are marked, because a device may state a smaller length than it wrote.
    """

    def __init__(self, ring: Vringh, log: DirtyLog, memory: WriteRecorder, areas: Sequence[Range]) -> None:
        """Wrap ``ring``, made with ``memory``; ``areas`` are the ring areas that its device writes."""
        super().__init__(ring)
        self._log = log
        self._memory = memory
        self._areas = areas
        self._taken: dict[int, list[Range]] = {}

    def getdescs(self, limit: int, /) -> list[Chain]:
        chains: list[Chain] = []
        writes = self._memory.writes
        try:
            while len(chains) < limit:
                writes.clear()
                taken = self._ring.getdescs(1)  # one at a time, so that all recorded ranges belong to this chain
                if not taken:
                    break
                self._taken[taken[0][0]] = writes.copy()
                chains += taken
        except (RemoteRingError, MemoryFault):
            # The next call meets the bad chain first and raises.
            if not chains:
                raise
        return chains

    def abandon(self, count: int, /) -> Sequence[int]:
        heads = self._ring.abandon(count)
        self._mark(heads)
        return heads

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self._ring.complete_each(done)
        self._mark([head for head, _ in done])
        self._mark_ring()

    def publish(self) -> bool:
        wanted = self._ring.publish()
        self._mark_ring()
        self._log.on_mark()
        return wanted

    def notify_enable(self) -> bool:
        work_left = self._ring.notify_enable()
        self._mark_ring()
        return work_left

    def notify_disable(self) -> None:
        self._ring.notify_disable()
        self._mark_ring()

    def close(self) -> None:
        """Mark the chains still in flight: the device may have written to them."""
        self._mark(list(self._taken))
        super().close()

    def _mark(self, heads: Sequence[int]) -> None:
        # Writes become visible before the mark. Pairs with the atomic exchange by which the front end reads the log.
        self._memory.fence()
        for head in heads:
            for addr, size in self._taken.pop(head):
                self._log.mark(addr, size)

    def _mark_ring(self) -> None:
        for addr, size in self._areas:
            self._log.mark(addr, size)
