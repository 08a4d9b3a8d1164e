"""The two checksums of the data link layer: LCRC of TLPs, and the CRC of DLLPs (PCI Express 3.6.2, 3.5.3)."""

from __future__ import annotations

import zlib

__all__ = ["DLLP_CRC_SIZE", "LCRC_SIZE", "dllp_crc", "lcrc"]

LCRC_SIZE, DLLP_CRC_SIZE = 4, 2
_POLYNOMIAL = 0xD008
"""0x100B with its bits in the order of the link: the lowest one first."""
_ONES = 0xFFFF


def lcrc(packet: bytes) -> bytes:
    """Return the LCRC of a sequence number and a TLP: the CRC of Ethernet, which zlib computes."""
    return zlib.crc32(packet).to_bytes(LCRC_SIZE, "little")


def _row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_ROWS = tuple(map(_row, range(256)))


def dllp_crc(packet: bytes) -> bytes:
    """Return the CRC of the first four bytes of a DLLP."""
    crc = _ONES
    for byte in packet:
        crc = crc >> 8 ^ _ROWS[(crc ^ byte) & 0xFF]
    return (crc ^ _ONES).to_bytes(DLLP_CRC_SIZE, "little")
