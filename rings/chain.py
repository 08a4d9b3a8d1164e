"""A descriptor chain after every check: which bytes the device may read, and which it may write.

A chain is the plain tuple ``(head, readable, writable)``: an object per packet would cost more than
the walk. The two lists hold byte views, none of them empty, readable ones before writable ones as the
driver has to order them (VIRTIO 1.4 section 2.7.4.2). They are valid until the next await.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Buffers", "Chain", "copy", "copy_in", "copy_out", "skip", "take", "total"]

Chain = tuple[int, list[memoryview], list[memoryview]]
Buffers = tuple[list[int], list[int], list[memoryview]]
"""Chains that are nothing but room: their heads, the bytes that each takes, and views of all of them, one after the
other. A view may belong to several, and none is empty."""


def total(segs: Sequence[memoryview]) -> int:
    """Bytes in all."""
    return sum(map(len, segs))


def skip(segs: Sequence[memoryview], size: int) -> list[memoryview]:
    """What is left of ``segs`` behind their first ``size`` bytes."""
    rest = []
    for seg in segs:
        if size >= len(seg):
            size -= len(seg)
        else:
            rest.append(seg[size:])
            size = 0
    return rest


def take(segs: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first ``size`` bytes of ``segs``, or all where there are fewer."""
    first = []
    for seg in segs:
        if not size:
            break
        part = seg[:size]
        first.append(part)
        size -= len(part)
    return first


def copy(into: Sequence[memoryview], segs: Sequence[memoryview]) -> int:
    """Copy ``segs`` to the start of ``into``, each byte once; the number of bytes that found room."""
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
    """A private copy of the first ``size`` bytes, or of all where there are fewer; each is read once."""
    if segs and len(segs[0]) >= size:
        return bytes(segs[0][:size])
    parts = []
    for seg in segs:
        part = bytes(seg[:size])
        parts.append(part)
        size -= len(part)
        if not size:
            break
    return b"".join(parts)


def copy_in(segs: Sequence[memoryview], data: bytes | bytearray | memoryview) -> int:
    """Write ``data`` to the start of ``segs``; the number of bytes that found room."""
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
