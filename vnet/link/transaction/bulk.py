"""The packets that carry data, without a value for each: memory reads and writes, and completions with data.

`codec` and `packets` say what these packets are; the functions here return the same bytes and accept the same
packets, several times as fast. What is not as simple is left to them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum

import attrs

from vnet.link.transaction.fields import DOUBLEWORD, PAGE

__all__ = ["Bulk", "BulkKind", "emit_completion", "emit_read", "emit_write", "parse_bulk", "spans"]

Data = bytes | bytearray | memoryview
_WORDS3, _WORDS4 = struct.Struct(">III"), struct.Struct(">IIQ")
_WRITE, _COMPLETION, _LONG = 0x4000_0000, 0x4A00_0000, 0x2000_0000
_PLAIN = 0x00FF_FC00
"""Bits of the first word that are 0 in simple packets: traffic class, attributes, digest, poisoned, address type."""
_FIRST = 0b1111, 0b1110, 0b1100, 0b1000
"""Enabled bytes of the first doubleword, by the bytes before the first one."""
_LAST = 0b1111, 0b0111, 0b0011, 0b0001
"""Enabled bytes of the last doubleword, by the bytes behind the last one."""
_BEFORE = {mask: skipped for skipped, mask in enumerate(_FIRST)}
_BEHIND = {mask: skipped for skipped, mask in enumerate(_LAST)}
_SINGLE = {
    0xF << low & 0xF >> high: (low, high)
    for low in range(DOUBLEWORD)
    for high in range(DOUBLEWORD)
    if low + high < DOUBLEWORD
}
"""Bytes before and behind the enabled ones, if there is one doubleword."""


class BulkKind(Enum):
    """Kinds of these packets."""

    READ = "read"
    WRITE = "write"
    COMPLETION = "completion"


@attrs.frozen
class Bulk:
    """A received packet."""

    kind: BulkKind
    requester: int
    tag: int
    start: int
    """Address of the first byte; of a completion, its lowest 7 bits."""
    size: int
    """Bytes to read or write; of a completion, those that are left of the request."""
    data: memoryview
    """Bytes that are written; of a completion, those of this packet."""


def spans(start: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield address and bytes of each packet for a range: none crosses a boundary of 4 KiB."""
    end = start + size
    while start < end:
        stop = min(end, start - start % PAGE + PAGE)
        yield start, stop - start
        start = stop


def _request(first: int, identity: int, start: int, size: int) -> bytes:
    low = start % DOUBLEWORD
    high = -(low + size) % DOUBLEWORD
    length = (low + size + high) // DOUBLEWORD
    enables = _LAST[high] << 4 | _FIRST[low] if length > 1 else _FIRST[low] & _LAST[high]
    word = first | length & 0x3FF
    address = start - low
    if address >> 32:
        return _WORDS4.pack(word | _LONG, identity | enables, address)
    return _WORDS3.pack(word, identity | enables, address)


def _padded(low: int, data: Data) -> list[Data]:
    high = -(low + len(data)) % DOUBLEWORD
    return [bytes(low), data, bytes(high)] if low or high else [data]


def emit_read(requester: int, tag: int, start: int, size: int) -> bytes:
    """Return the request for one of the `spans`."""
    return _request(0, requester << 16 | tag << 8, start, size)


def emit_write(requester: int, start: int, data: Data) -> list[Data]:
    """Return the write of one of the `spans`, in pieces; the data are not copied."""
    return [_request(_WRITE, requester << 16, start, len(data)), *_padded(start % DOUBLEWORD, data)]


def emit_completion(requester: int, tag: int, completer: int, start: int, data: Data) -> list[Data]:
    """Return the answer to the request for one of the `spans`, in pieces; the data are not copied."""
    size, low = len(data), start % DOUBLEWORD
    length = (low + size + DOUBLEWORD - 1) // DOUBLEWORD
    second, third = completer << 16 | size & 0xFFF, requester << 16 | tag << 8 | start & 0x7F
    return [_WORDS3.pack(_COMPLETION | length & 0x3FF, second, third), *_padded(low, data)]


_EMPTY = memoryview(b"")


def parse_bulk(packet: memoryview) -> Bulk | None:
    """Return a received packet; None if it is for `codec.parse`, because it is malformed, or not as simple."""
    size = len(packet)
    if size < _WORDS3.size:
        return None
    first, second, address = _WORDS3.unpack_from(packet)
    if first & _PLAIN:
        return None
    kind, length, at = first >> 24, first & 0x3FF or 1024, _WORDS3.size
    if kind == 0x4A:
        return _parse_completion(packet, length, second, address)
    if kind & 0x20:
        if size < _WORDS4.size:
            return None
        address, at = _WORDS4.unpack_from(packet)[2], _WORDS4.size
        if not address >> 32:
            return None
    writes = kind & 0x40
    if kind & ~0x60 or size != at + (length * DOUBLEWORD if writes else 0):
        return None
    address &= -DOUBLEWORD
    enables = second & 0xFF
    if length == 1:
        outside = _SINGLE.get(enables)
        if outside is None:
            return None
        low, high = outside
    else:
        before, behind = _BEFORE.get(enables & 0xF), _BEHIND.get(enables >> 4)
        if before is None or behind is None or address % PAGE + length * DOUBLEWORD > PAGE:
            return None
        low, high = before, behind
    if writes:
        data = packet[at + low : size - high]
        return Bulk(BulkKind.WRITE, second >> 16, second >> 8 & 0xFF, address + low, len(data), data)
    span = length * DOUBLEWORD - low - high
    return Bulk(BulkKind.READ, second >> 16, second >> 8 & 0xFF, address + low, span, _EMPTY)


def _parse_completion(packet: memoryview, length: int, second: int, third: int) -> Bulk | None:
    if second & 0xF000 or len(packet) != _WORDS3.size + length * DOUBLEWORD:
        return None  # a status, or BCM
    rest, lower = second & 0xFFF or PAGE, third & 0x7F
    low = lower % DOUBLEWORD
    size = min(rest, length * DOUBLEWORD - low)
    if size + DOUBLEWORD <= length * DOUBLEWORD - low:
        return None  # more data than the byte count says
    data = packet[_WORDS3.size + low : _WORDS3.size + low + size]
    return Bulk(BulkKind.COMPLETION, third >> 16, third >> 8 & 0xFF, lower, rest, data)
