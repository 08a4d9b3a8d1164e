"""Parsing of request chains. Pure: a chain becomes a checked request, or a refusal.

A chain is a 16-byte header, data, and a status byte as the last byte that the device may write (VIRTIO 1.4 section
5.2.6). Header and segments are fetched once and that copy is checked; data are byte views of the chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import attrs

from drivers.devices.blk.layout import (
    FLUSH,
    HEADER,
    OUT,
    SECTOR,
    SEGMENT,
    UNMAP,
    BlkFeature,
    BlkStatus,
    RequestType,
)
from drivers.storage.workers import StoreExtent
from rings.chain import Chain, copy_out, skip, total
from rings.errors import BadChain

__all__ = ["BlkLimits", "Refusal", "VhostBlkRequest"]

_NEEDS: Mapping[RequestType, BlkFeature | None] = {
    RequestType.IN: None,
    RequestType.OUT: None,
    RequestType.FLUSH: BlkFeature.FLUSH,
    RequestType.GET_ID: None,
    RequestType.DISCARD: BlkFeature.DISCARD,
    RequestType.WRITE_ZEROES: BlkFeature.WRITE_ZEROES,
    RequestType.GET_LIFETIME: BlkFeature.LIFETIME,
    RequestType.SECURE_ERASE: BlkFeature.SECURE_ERASE,
}
_FLAGS: Mapping[RequestType, int] = {
    RequestType.DISCARD: 0,
    RequestType.WRITE_ZEROES: UNMAP,
    RequestType.SECURE_ERASE: 0,
}
"""Valid flags of a segment, per request type."""


@attrs.frozen
class BlkLimits:
    """Limits of requests, from the negotiated features and the store."""

    capacity: int
    """Sectors."""
    features: int
    """Negotiated feature bits."""
    read_only: bool = False
    max_sectors: int = 0
    """Maximum sectors of one segment of a discard, write-zeroes or secure-erase request."""
    max_segments: int = 0
    """Maximum segments of one discard, write-zeroes or secure-erase request."""
    max_data: int = 1 << 32
    """Maximum bytes of data of one request."""
    types: frozenset[int] = attrs.field(init=False)
    """Supported request types, from the features."""

    @types.default
    def _types(self) -> frozenset[int]:
        return frozenset(kind for kind, bit in _NEEDS.items() if bit is None or self.features >> bit & 1)


class VhostBlkRequest(NamedTuple):  # a NamedTuple takes a third of the time to make
    """A valid request. ``status_byte`` is written last; it and ``data`` are views of the chain."""

    head: int
    status_byte: memoryview
    kind: int
    offset: int
    """Bytes."""
    size: int
    """Bytes of data."""
    data: Sequence[memoryview]
    """Data to write to the disk, or room for data to read."""
    extents: tuple[StoreExtent, ...] = ()
    """Ranges of DISCARD, WRITE_ZEROES and SECURE_ERASE."""

    @staticmethod
    def parse(chain: Chain, limits: BlkLimits) -> VhostBlkRequest | Refusal:
        """Parse and check a chain. Raises BadChain if it has no status byte, so that the device cannot answer."""
        head, readable, writable = chain
        if not writable:
            raise BadChain(head, "the chain has no byte for the status")
        last = writable[-1]
        status, data = (last, writable[:-1]) if len(last) == 1 else (last[-1:], [*writable[:-1], last[:-1]])
        header = readable[0] if readable and len(readable[0]) >= HEADER.size else copy_out(readable, HEADER.size)
        if len(header) < HEADER.size:
            return Refusal(head, status, BlkStatus.IOERR, "short_header")
        kind, _, sector = HEADER.unpack_from(header)  # loads each byte once
        if kind not in limits.types:
            return Refusal(head, status, BlkStatus.UNSUPP, "unknown_type")
        if limits.read_only and kind in _WRITES:
            return Refusal(head, status, BlkStatus.IOERR, "read_only")
        if kind in _FLAGS:
            return _ranges(head, status, kind, skip(readable, HEADER.size), limits)
        if kind == OUT:
            data = readable[1:] if len(readable[0]) == HEADER.size else skip(readable, HEADER.size)
        elif kind == FLUSH:
            data = []
        size = len(data[0]) if len(data) == 1 else total(data)
        if size > limits.max_data:
            return Refusal(head, status, BlkStatus.IOERR, "too_long")
        if kind in _MOVES:
            if size % SECTOR:
                return Refusal(head, status, BlkStatus.IOERR, "unaligned")
            if sector + size // SECTOR > limits.capacity:
                return Refusal(head, status, BlkStatus.IOERR, "beyond_end")
        return _new(VhostBlkRequest, (head, status, kind, sector * SECTOR, size, data, ()))


_MOVES = frozenset((RequestType.IN, OUT))
_new = tuple.__new__  # makes a request in a third of the time that its own constructor takes
_WRITES = frozenset((RequestType.OUT, *_FLAGS))


@attrs.frozen
class Refusal:
    """An invalid request: the status to answer, and the cause for counters."""

    head: int
    status_byte: memoryview
    status: BlkStatus
    cause: str


def _ranges(
    head: int, status: memoryview, kind: int, data: list[memoryview], limits: BlkLimits
) -> VhostBlkRequest | Refusal:
    """Parse discard, write zeroes or secure erase: one invalid segment refuses the whole request (section 5.2.6.2)."""
    size = total(data)
    if not size or size % SEGMENT.size:
        return Refusal(head, status, BlkStatus.IOERR, "unaligned")
    if size > limits.max_segments * SEGMENT.size:
        return Refusal(head, status, BlkStatus.IOERR, "too_many_segments")
    segments = list(SEGMENT.iter_unpack(copy_out(data, size)))
    if any(flags & ~_FLAGS[RequestType(kind)] for _, _, flags in segments):
        return Refusal(head, status, BlkStatus.UNSUPP, "bad_flags")
    if any(count > limits.max_sectors for _, count, _ in segments):
        return Refusal(head, status, BlkStatus.IOERR, "too_long")
    if any(sector + count > limits.capacity for sector, count, _ in segments):
        return Refusal(head, status, BlkStatus.IOERR, "beyond_end")
    unmap = kind == RequestType.DISCARD
    extents = tuple(StoreExtent(s * SECTOR, n * SECTOR, unmap or bool(flags & UNMAP)) for s, n, flags in segments)
    return VhostBlkRequest(head, status, kind, 0, sum(extent.size for extent in extents), (), extents)
