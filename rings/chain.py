"""A validated descriptor chain: the bytes that the device may read, and those that it may write.

A chain is the plain tuple ``(head, readable, writable)``: an object per packet would cost more than
the walk. Both lists hold non-empty byte views, valid until the next await. The driver has to put readable
descriptors before writable ones (VIRTIO 1.4 section 2.7.4.2).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NO_PLAIN", "Buffers", "Chain", "Plain", "copy", "copy_in", "copy_out", "skip", "take", "total"]

Chain = tuple[int, list[memoryview], list[memoryview]]
Buffers = tuple[list[int], list[int], list[memoryview]]
"""A batch of write-only chains: their heads, the bytes of each, and non-empty views of all of them in order. One view
may cover several chains."""
Plain = tuple[memoryview, Sequence[tuple[int, int, int]]]
"""A batch of chains of one descriptor: a region of memory, and head, offset in the region and bytes of each chain."""
NO_PLAIN: Plain = memoryview(b""), ()


def total(segs: Sequence[memoryview]) -> int:
    """Return the total number of bytes."""
    return sum(map(len, segs))


def skip(segs: Sequence[memoryview], size: int) -> list[memoryview]:
    """Return ``segs`` without their first ``size`` bytes."""
    rest = []
    for seg in segs:
        if size >= len(seg):
            size -= len(seg)
        else:
            rest.append(seg[size:])
            size = 0
    return rest


def take(segs: Sequence[memoryview], size: int) -> list[memoryview]:
    """Return the first ``size`` bytes of ``segs``, or all if there are fewer."""
    first = []
    for seg in segs:
        if not size:
            break
        part = seg[:size]
        first.append(part)
        size -= len(part)
    return first


def copy(into: Sequence[memoryview], segs: Sequence[memoryview]) -> int:
    """Copy ``segs`` to the start of ``into``, reading each byte once. Returns the number of bytes copied."""
    done = 0
    rest = list(into)
    for seg in segs:
        got = copy_in(rest, seg)
        done += got
        if got < len(seg):
            break
        rest = skip(rest, got)
    return done


def copy_out(segs: Sequence[memoryview], size: int) -> bytes:
    """Return a private copy of the first ``size`` bytes, or of all if there are fewer. Reads each byte once."""
    if segs and len(segs[0]) >= size:
        return segs[0][:size].tobytes()
    parts = []
    for seg in segs:
        part = seg[:size].tobytes()
        parts.append(part)
        size -= len(part)
        if not size:
            break
    return b"".join(parts)


def copy_in(segs: Sequence[memoryview], data: bytes | bytearray | memoryview) -> int:
    """Write ``data`` to the start of ``segs``. Returns the number of bytes copied."""
    done = 0
    if not len(data):
        return 0
    for seg in segs:
        part = data[done : done + len(seg)]
        seg[: len(part)] = part
        done += len(part)
        if done == len(data):
            break
    return done
