"""One frame over as many receive buffers as it takes (VIRTIO 1.4 section 5.1.9.3.2), for whoever delivers frames."""

from __future__ import annotations

from collections.abc import Sequence

from rings.chain import copy, copy_in, skip, total
from rings.queue import Vringh

__all__ = ["NUM_BUFFERS_AT", "ONE_BUFFER", "Taken", "complete", "gather", "give_back", "put"]

NUM_BUFFERS_AT, NUM_BUFFERS_END = 10, 12
"""Where num_buffers stands in the virtio_net_hdr."""
ONE_BUFFER = b"\1\0"

Taken = list[tuple[int, list[memoryview]]]
"""Chains taken from a receive queue: head and writable views; no views for one that is no receive buffer."""


def gather(ring: Vringh, wanted: int, taken: Taken, limit: int) -> int:
    """Take chains until ``taken`` has room for ``wanted`` bytes, ``limit`` chains, or no more are there; the room.

    A chain at the front that is no receive buffer is completed empty: given back it would stand there for ever.
    """
    room = sum(total(views) for _, views in taken)
    while room < wanted and len(taken) < limit:
        # As many at a time as it takes where all are as large as the last one: nearly always they are.
        share = total(taken[-1][1]) if taken else 0
        count = -(-(wanted - room) // share) if share else 1
        chains = ring.getdescs(min(count, limit - len(taken)))
        if not chains:
            break
        for head, readable, views in chains:
            if readable and not taken:
                ring.complete(head, 0)
                continue
            taken.append((head, [] if readable else views))
            room += total(taken[-1][1])
    return room


def give_back(ring: Vringh, taken: Taken) -> None:
    """Untouched, so that they are the next to be taken again."""
    for head, _ in reversed(taken):
        ring.abandon(head)


def complete(ring: Vringh, taken: Taken, size: int) -> None:
    """Complete the chains that ``size`` bytes fill, with num_buffers set; what is left stays in ``taken``.

    All of them are shown to the driver together, by the next publish.
    """
    used, left = 0, size
    while left > 0:
        left -= total(taken[used][1])
        used += 1
    first = taken[0][1]
    if first and len(first[0]) >= NUM_BUFFERS_END:
        first[0][NUM_BUFFERS_AT:NUM_BUFFERS_END] = used.to_bytes(2, "little")
    else:
        into = [seg for _, views in taken[:used] for seg in views]
        copy_in(skip(into, NUM_BUFFERS_AT), used.to_bytes(2, "little"))
    done = []
    for head, views in taken[:used]:
        part = min(size, total(views))
        done.append((head, part))
        size -= part
    ring.complete_each(done)
    del taken[:used]


def put(ring: Vringh, head: bytes, payload: Sequence[memoryview], mergeable: bool) -> int | None:
    """Copy one frame, header first, into the queue's buffers and complete them: the bytes copied.

    None when too few buffers are there, which is then as before; 0 when it can never fit.
    """
    size = len(head) + total(payload)
    taken: Taken = []
    room = gather(ring, size, taken, ring.num if mergeable else 1)
    if room >= size:
        into = [seg for _, views in taken for seg in views]
        copy_in(into, head)
        copy(skip(into, len(head)), payload)
        complete(ring, taken, size)
        give_back(ring, taken)
        return size
    give_back(ring, taken)
    return 0 if len(taken) == (ring.num if mergeable else 1) else None
