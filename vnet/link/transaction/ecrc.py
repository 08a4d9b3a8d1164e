"""The digest at the end of a packet: a CRC over its bytes from one end to the other (ECRC, PCI Express 2.7.1)."""

from __future__ import annotations

import zlib

__all__ = ["ECRC_SIZE", "ecrc"]

ECRC_SIZE = 4
_TYPE_BIT = 0x01
"""Lowest bit of Type, in byte 0: a switch changes it when it converts a configuration request."""
_POISONED_BIT = 0x40
"""EP, in byte 2: a switch may set it."""


def ecrc(packet: bytes) -> bytes:
    """Return the digest of the header and data of ``packet``, with both variant bits taken as 1.

    The polynomial, the seed and the order of bits are those of Ethernet's CRC, which zlib computes.
    """
    invariant = bytearray(packet)
    invariant[0] |= _TYPE_BIT
    invariant[2] |= _POISONED_BIT
    return zlib.crc32(invariant).to_bytes(ECRC_SIZE, "little")
