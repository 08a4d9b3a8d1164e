"""Statistics of a network device by queue, which its driver asks for (VIRTIO 1.4 section 5.1.9.5.11). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum

import attrs

from rings.features import bits, mask

__all__ = [
    "COUNTED",
    "PART",
    "PART_SIZE",
    "TYPES_SIZE",
    "QueueCounts",
    "QueueTypes",
    "StatType",
    "emit_types",
    "parse_replies",
    "parse_requests",
    "parse_types",
    "types_of",
]

REQUEST = struct.Struct("<H6xQ")
"""Layout of a request for one queue: its index, and a bitmap of types."""
REPLY = struct.Struct("<BxH2xH")
"""Layout in front of the counters: type, index of the queue, and bytes of all of the reply."""
TYPES = struct.Struct("<Q")
"""Layout of a bitmap of types, and of a counter."""
TYPES_SIZE = TYPES.size
WRAP = 1 << 64


class StatType(IntEnum):
    """A group of counters: its bit in a bitmap of types, and its number in a reply."""

    RX_BASIC = 0
    TX_BASIC = 16
    CVQ = 32


NAMES: Mapping[StatType, tuple[str, ...]] = {
    StatType.RX_BASIC: (
        *("rx_notifications", "rx_packets", "rx_bytes", "rx_interrupts"),
        *("rx_drops", "rx_drop_overruns"),
    ),
    StatType.TX_BASIC: (
        *("tx_notifications", "tx_packets", "tx_bytes", "tx_interrupts"),
        *("tx_drops", "tx_drop_malformed"),
    ),
    StatType.CVQ: ("command_num", "ok_num"),
}
"""Names of the counters of each type, in order; 8 bytes each."""
COUNTED = mask(StatType)
"""Types that our device has. The others need a look into each frame, or a limit of speed."""
PART = 16
"""Number of queues that the driver asks about in one command."""
PART_SIZE = PART * (REPLY.size + 8 * max(map(len, NAMES.values())))
"""Bytes of the longest answer to such a command."""


def types_of(index: int, control: int | None) -> int:
    """Return the types of a queue as a bitmap; ``control`` is the index of the control queue."""
    if index == control:
        return 1 << StatType.CVQ
    return 1 << (StatType.TX_BASIC if index % 2 else StatType.RX_BASIC)


@attrs.frozen
class QueueTypes:
    """A request for the counters of one queue."""

    index: int
    types: int
    """Bitmap of `StatType`."""

    def emit(self) -> bytes:
        return REQUEST.pack(self.index, self.types)


def parse_requests(data: bytes) -> tuple[QueueTypes, ...] | None:
    """Parse the requests of a command. Returns None for a number of bytes that is no multiple of a request's."""
    return None if len(data) % REQUEST.size else tuple(QueueTypes(*row) for row in REQUEST.iter_unpack(data))


@attrs.frozen
class QueueCounts:
    """Counters of one type of a queue, in the order of their names."""

    index: int
    type: StatType
    counts: Sequence[int]

    def emit(self) -> bytes:
        """Return the reply; a counter wraps around at 2^64."""
        size = REPLY.size + 8 * len(self.counts)
        return REPLY.pack(self.type, self.index, size) + b"".join(TYPES.pack(count % WRAP) for count in self.counts)

    @property
    def by_name(self) -> dict[str, int]:
        return dict(zip(NAMES[self.type], self.counts, strict=False))


def emit_types(types: int) -> bytes:
    """Return the answer to a query of the types that a device has."""
    return TYPES.pack(types)


def parse_types(data: bytes) -> int:
    """Parse such an answer; a shorter one has no types."""
    return int(TYPES.unpack_from(data)[0]) if len(data) >= TYPES.size else 0


def parse_replies(data: bytes, requests: Sequence[QueueTypes]) -> Iterator[QueueCounts]:
    """Yield the replies in an answer to ``requests``, as far as they are whole; ignores others."""
    wanted = {(request.index, kind) for request in requests for kind in bits(request.types)}
    while len(data) >= REPLY.size:
        kind, index, size = REPLY.unpack_from(data)
        if not REPLY.size <= size <= len(data):
            return
        if (index, kind) in wanted:
            known = min((size - REPLY.size) // 8, len(NAMES[StatType(kind)]))
            yield QueueCounts(index, StatType(kind), struct.unpack_from(f"<{known}Q", data, REPLY.size))
        data = data[size:]
