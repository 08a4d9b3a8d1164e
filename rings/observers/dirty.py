"""The log of dirty pages: what a device writes while somebody copies the memory that it writes to.

One bit for each page of the driver's addresses, as vhost has it: bit ``page % 8`` of byte ``page // 8``. Whoever copies
clears bits meanwhile, and devices in other processes may set others; so whole bytes of ones are stored, which loses
nobody's bit without an atomic OR, and marks up to eight pages where one was written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rings.chain import Chain
from rings.errors import LocalRingError, MemoryFault, RemoteRingError
from rings.memory import Addr, Memory
from rings.observers.wrapper import AroundVringh
from rings.queue import Vringh

__all__ = ["DirtyLog", "DirtyVringh", "Range", "WriteRecorder", "dirty_log_size"]

PAGE = 4096
SPAN = 8 * PAGE
"""Bytes of memory for each byte of the log."""
Range = tuple[int, int]
"""Address and bytes."""


def dirty_log_size(end: int) -> int:
    """Bytes of a log for addresses below ``end``."""
    return -(-end // SPAN)


class DirtyLog:
    """The log itself, in a flat byte view; ``told`` is called whenever a batch was marked."""

    def __init__(self, memory: memoryview, told: Callable[[], None] = lambda: None) -> None:
        self._memory = memory
        self.told = told

    def covers(self, addr: int, size: int) -> bool:
        """Whether it has bits for all of that range."""
        return 0 <= addr and 0 <= size and dirty_log_size(addr + size) <= len(self._memory)

    def mark(self, addr: int, size: int) -> None:
        """After a write: these bytes may have changed. Raises LocalRingError where they are not covered."""
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
    """A `rings.memory.Memory` that remembers what was asked for in order to write to it, by address."""

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


class DirtyVringh(AroundVringh[Vringh]):
    """A `rings.queue.Vringh` that marks what its device may have written: buffers once they are given back, used or
    not, or the ring is let go of; and of the ring itself what devices write.

    The whole of a buffer counts, whatever length the device states: it may state less than it wrote.
    """

    def __init__(self, ring: Vringh, log: DirtyLog, memory: WriteRecorder, areas: Sequence[Range]) -> None:
        """``memory`` is what the ring inside was made with, ``areas`` is where its device writes in the ring itself."""
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
                taken = self._ring.getdescs(1)  # one at a time: what it resolves is this chain's
                if not taken:
                    break
                self._taken[taken[0][0]] = writes.copy()
                chains += taken
        except (RemoteRingError, MemoryFault):
            # Met again, first, by the next call.
            if not chains:
                raise
        return chains

    def abandon(self, head: int, /) -> None:
        self._ring.abandon(head)
        self._mark((head,))

    def complete_each(self, done: Sequence[tuple[int, int]], /) -> None:
        self._ring.complete_each(done)
        self._mark([head for head, _ in done])
        self._mark_ring()

    def publish(self) -> bool:
        wanted = self._ring.publish()
        self._mark_ring()
        self._log.told()
        return wanted

    def notify_enable(self) -> bool:
        work_left = self._ring.notify_enable()
        self._mark_ring()
        return work_left

    def notify_disable(self) -> None:
        self._ring.notify_disable()
        self._mark_ring()

    def close(self) -> None:
        """What was taken may have been written to, and is given back by nobody any more."""
        self._mark(list(self._taken))
        super().close()

    def _mark(self, heads: Sequence[int]) -> None:
        # What was written before is seen by whoever sees the mark. Pairs with the exchange of whoever reads the log.
        self._memory.fence()
        for head in heads:
            for addr, size in self._taken.pop(head):
                self._log.mark(addr, size)

    def _mark_ring(self) -> None:
        for addr, size in self._areas:
            self._log.mark(addr, size)
