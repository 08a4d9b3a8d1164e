"""Parameters of receive-side scaling and of hash reports (VIRTIO 1.4 sections 5.1.9.5.6.4 and 5.1.9.5.7). Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import attrs

from drivers.devices.net.hashing import HASH_TYPES, KEY_SIZE

__all__ = ["KEY", "TABLE_LENGTH", "HashConfig", "RssConfig", "fill_table"]

TABLE_LENGTH = 128
"""Entries of the longest indirection table that our device has."""
RSS = struct.Struct("<IHH")
"""Layout in front of an indirection table: types, mask, queue of unclassified frames."""
BEHIND = struct.Struct("<HB")
"""Layout behind it: transmit queues in use, and bytes of the key that follows."""
HASH = struct.Struct("<I8xB")
"""Layout in front of the key of a hash: types, reserved fields that are 0, and bytes of the key."""
QUEUE = 0x7FFF
"""Bits of a queue id: half of the index of a receive queue. The reserved bit above is ignored."""
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
"""Key of our driver, unless its user names one: that of the examples by which implementations are compared."""


@attrs.frozen
class HashConfig:
    """Types of packets to hash, and the key."""

    types: int
    """Bitmap of `HashType`."""
    key: bytes
    """At most `KEY_SIZE` bytes."""

    @classmethod
    def parse(cls, data: bytes) -> HashConfig | None:
        """Parse a command's data; ignores the reserved fields. Returns None if they have another size than they say."""
        if len(data) < HASH.size:
            return None
        types, size = HASH.unpack_from(data)
        return cls(types, data[HASH.size :]) if len(data) == HASH.size + size else None

    def emit(self) -> bytes:
        return HASH.pack(self.types, len(self.key)) + self.key

    @property
    def valid(self) -> bool:
        """Whether our device has these types."""
        return not self.types & ~HASH_TYPES and len(self.key) <= KEY_SIZE


@attrs.frozen
class RssConfig:
    """Receive-side scaling: which queue pair a frame belongs to, by its hash."""

    hash: HashConfig
    table: Sequence[int]
    """Queue pairs by the low bits of a hash, from 0 on; as many as a power of two."""
    unclassified: int
    """Queue pair of frames without a hash."""
    transmit: int
    """Number of transmit queues that the driver uses."""

    @property
    def pairs(self) -> int:
        """Number of queue pairs in use, from the first on."""
        return max(self.transmit, self.unclassified + 1, max(self.table) + 1)

    def pair_of(self, report: int, value: int) -> int:
        """Return the queue pair of a frame with this report and hash (section 5.1.9.5.7.3)."""
        return self.table[value & len(self.table) - 1] if report else self.unclassified

    @classmethod
    def parse(cls, data: bytes) -> RssConfig | None:
        """Parse a command's data. Returns None if they have another size than they say, or the table is too long."""
        if len(data) < RSS.size:
            return None
        types, table_mask, unclassified = RSS.unpack_from(data)
        length, at = table_mask + 1, RSS.size + 2 * (table_mask + 1)
        if length & table_mask or length > TABLE_LENGTH or len(data) < at + BEHIND.size:
            return None
        table = tuple(entry & QUEUE for entry in struct.unpack_from(f"<{length}H", data, RSS.size))
        transmit, size = BEHIND.unpack_from(data, at)
        key = data[at + BEHIND.size :]
        if len(key) != size or not transmit:
            return None
        return cls(HashConfig(types, key), table, unclassified & QUEUE, transmit)

    def emit(self) -> bytes:
        return b"".join(
            (
                RSS.pack(self.hash.types, len(self.table) - 1, self.unclassified),
                struct.pack(f"<{len(self.table)}H", *self.table),
                BEHIND.pack(self.transmit, len(self.hash.key)),
                self.hash.key,
            )
        )


def fill_table(pairs: Sequence[int], most: int) -> tuple[int, ...]:
    """Return a table of these queue pairs in turn: of `TABLE_LENGTH` entries, or of the device's ``most``.

    The length is a power of two.
    """
    length = min(TABLE_LENGTH, 1 << most.bit_length() - 1)
    return tuple(pairs[at % len(pairs)] for at in range(length))
