"""One frame over several receive buffers (VIRTIO 1.4 section 5.1.9.3.2)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from rings.chain import copy, copy_in, skip, total
from rings.queue import Vringh, complete

__all__ = ["NUM_BUFFERS_AT", "ONE_BUFFER", "TakenChains", "put"]

NUM_BUFFERS_AT, NUM_BUFFERS_END = 10, 12
"""Range of num_buffers in the virtio_net_hdr."""
ONE_BUFFER = b"\1\0"
"""Value of num_buffers for one buffer."""


class TakenChains:
    """Chains taken from a receive queue and neither completed nor abandoned, oldest first.

    A frame may take dozens of chains, so their fields are kept in parallel lists, which one call processes.
    """

    __slots__ = ("_heads", "_ring", "_room", "_rooms", "_views", "share")

    def __init__(self, ring: Vringh, share: int = 0) -> None:
        self._ring = ring
        self.share = share
        """Expected bytes of the next chain: those of the last one, 0 if unknown."""
        self._heads: list[int] = []
        self._room = 0
        self._rooms: list[int] = []  # bytes of each chain
        self._views: list[memoryview] = []  # of all chains, except those that are no receive buffers

    def __len__(self) -> int:
        return len(self._heads)

    def gather(self, wanted: int, limit: int) -> int:
        """Take chains until there is room for ``wanted`` bytes, or ``limit`` chains, or no more. Returns the room.

        A chain at the front that is no receive buffer is completed with length 0; abandoned, it would block the queue.
        """
        heads, rooms = self._heads, self._rooms
        while self._room < wanted and len(heads) < limit:
            # As many at a time as are needed if all are as large as the last one, which is the usual case.
            count = -(-(wanted - self._room) // self.share) if self.share else 1
            count = min(count, limit - len(heads))
            new_heads, sizes, views = self._ring.getbufs(count)
            if new_heads:
                heads += new_heads
                rooms += sizes
                self._views += views
                self._room += sum(sizes)
                self.share = sizes[-1]
                continue
            # Again in batches: a chain without room, or not reachable, must not cost a check of all others each time.
            chains = self._ring.getdescs(count)
            if not chains:
                break
            for head, readable, views in chains:
                if readable and not heads:
                    complete(self._ring, head, 0)
                    continue
                heads.append(head)
                rooms.append(0 if readable else total(views))
                self._views += [] if readable else views
                self._room += rooms[-1]
                self.share = rooms[-1]
        return self._room

    def segments(self) -> list[memoryview]:
        """Return the views of all chains, in order."""
        return self._views.copy()

    def complete(self, size: int) -> None:
        """Complete the chains that ``size`` bytes fill, and set num_buffers. The other chains stay taken.

        The next publish shows all completed chains to the driver together.
        """
        heads, rooms, views = self._heads, self._rooms, self._views
        used = len(heads)
        if size <= self._room - rooms[-1]:
            used = bisect_left(list(accumulate(rooms)), size) + 1
        if len(views[0]) >= NUM_BUFFERS_END:
            views[0][NUM_BUFFERS_AT:NUM_BUFFERS_END] = used.to_bytes(2, "little")
        else:
            copy_in(skip(views, NUM_BUFFERS_AT), used.to_bytes(2, "little"))
        written = rooms[:used]
        room = sum(written)
        written[-1] -= room - size
        self._ring.complete_each(list(zip(heads, written, strict=False)))
        del heads[:used], rooms[:used]
        self._views = skip(views, room) if heads else []
        self._room -= room

    def give_back(self) -> None:
        """Abandon all chains, so that they are taken next."""
        self._ring.abandon(len(self._heads))


def put(ring: Vringh, head: bytes, payload: Sequence[memoryview], mergeable: bool) -> int | None:
    """Copy one frame, header first, into the queue's buffers, and complete them. Returns the bytes copied.

    Returns None if there are too few buffers now; the queue is unchanged then. Returns 0 if the frame can never fit.
    """
    size = len(head) + total(payload)
    limit = ring.num if mergeable else 1
    taken = TakenChains(ring)
    if taken.gather(size, limit) >= size:
        into = taken.segments()
        copy_in(into, head)
        copy(skip(into, len(head)), payload)
        taken.complete(size)
        taken.give_back()
        return size
    taken.give_back()
    return 0 if len(taken) == limit else None
