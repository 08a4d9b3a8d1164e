"""The RARP frame from which switches learn where a station is."""

from __future__ import annotations

import struct

__all__ = ["rarp"]

BROADCAST = b"\xff" * 6
FRAME = struct.Struct(">6s6sHHHBBH6s4s6s4s")
ETH_P_RARP = 0x8035
ETHERNET_IPV4 = (1, 0x0800, 6, 4)
REQUEST_REVERSE = 3
NOTHING = bytes(4)


def rarp(mac: bytes) -> bytes:
    """Return a reverse ARP request of the station ``mac`` (RFC 903), 42 bytes."""
    return FRAME.pack(BROADCAST, mac, ETH_P_RARP, *ETHERNET_IPV4, REQUEST_REVERSE, mac, NOTHING, mac, NOTHING)
