"""One frame over as many receive buffers as it takes (VIRTIO 1.4 section 5.1.9.3.2), for whoever delivers frames."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from rings.chain import copy, copy_in, skip, total
from rings.queue import Vringh

__all__ = ["NUM_BUFFERS_AT", "ONE_BUFFER", "Taken", "put"]

NUM_BUFFERS_AT, NUM_BUFFERS_END = 10, 12
"""Where num_buffers stands in the virtio_net_hdr."""
ONE_BUFFER = b"\1\0"


class Taken:
    """Chains that were taken from a receive queue and are neither completed nor given back, the oldest first.

    A frame may lie over dozens of them: they are kept by the column, and what is done with all is done by the list.
    """

    __slots__ = ("_heads", "_ring", "_room", "_rooms", "_views", "share")

    def __init__(self, ring: Vringh, share: int = 0) -> None:
        self._ring = ring
        self.share = share
        """Bytes that the next chain is expected to take: as many as the last one; 0 where nobody knows."""
        self._heads: list[int] = []
        self._room = 0
        self._rooms: list[int] = []  # bytes that each can take
        self._views: list[memoryview] = []  # of all of them; none of a chain that is no receive buffer

    def __len__(self) -> int:
        return len(self._heads)

    def gather(self, wanted: int, limit: int) -> int:
        """Take chains until they have room for ``wanted`` bytes, are ``limit``, or no more are there; the room.

        A chain at the front that is no receive buffer is completed empty: given back it would stand there for ever.
        """
        heads, rooms = self._heads, self._rooms
        while self._room < wanted and len(heads) < limit:
            # As many at a time as it takes where all are as large as the last one: nearly always they are.
            count = -(-(wanted - self._room) // self.share) if self.share else 1
            count = min(count, limit - len(heads))
            found, sizes, views = self._ring.getbufs(count)
            if found:
                heads += found
                rooms += sizes
                self._views += views
                self._room += sum(sizes)
                self.share = sizes[-1]
                continue
            # As many again: one that is no room, or not to be reached, must not cost a look at all others each time.
            chains = self._ring.getdescs(count)
            if not chains:
                break
            for head, readable, views in chains:
                if readable and not heads:
                    self._ring.complete(head, 0)
                    continue
                heads.append(head)
                rooms.append(0 if readable else total(views))
                self._views += [] if readable else views
                self._room += rooms[-1]
                self.share = rooms[-1]
        return self._room

    def segments(self) -> list[memoryview]:
        """Where a frame goes."""
        return self._views.copy()

    def complete(self, size: int) -> None:
        """Complete the chains that ``size`` bytes fill, with num_buffers set; the others stay.

        All of them are shown to the driver together, by the next publish.
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
        """Untouched, so that they are the next to be taken again."""
        abandon = self._ring.abandon
        for head in reversed(self._heads):
            abandon(head)


def put(ring: Vringh, head: bytes, payload: Sequence[memoryview], mergeable: bool) -> int | None:
    """Copy one frame, header first, into the queue's buffers and complete them: the bytes copied.

    None when too few buffers are there, which is then as before; 0 when it can never fit.
    """
    size = len(head) + total(payload)
    limit = ring.num if mergeable else 1
    taken = Taken(ring)
    if taken.gather(size, limit) >= size:
        into = taken.segments()
        copy_in(into, head)
        copy(skip(into, len(head)), payload)
        taken.complete(size)
        taken.give_back()
        return size
    taken.give_back()
    return 0 if len(taken) == limit else None
