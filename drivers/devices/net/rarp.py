"""The frame by which a network learns where a station is now, sent on behalf of a driver that can't say so itself."""

from __future__ import annotations

import struct

from drivers.ports import HEADER_SIZE

__all__ = ["rarp"]

BROADCAST = b"\xff" * 6
ETHERNET = struct.Struct(">6s6sH")
ETH_P_RARP = 0x8035
ARP = struct.Struct(">HHBBH6s4s6s4s")
ETHERNET_IPV4 = (1, 0x0800, 6, 4)
REQUEST_REVERSE = 3
NOTHING = bytes(4)
SHORTEST = 46
"""Bytes of the payload of any Ethernet frame, at least."""


def rarp(mac: bytes) -> tuple[bytes, bytes]:
    """A reverse ARP request of the station ``mac`` (RFC 903), as `drivers.ports.PacketQueue.send` takes it."""
    request = ARP.pack(*ETHERNET_IPV4, REQUEST_REVERSE, mac, NOTHING, mac, NOTHING)
    return bytes(HEADER_SIZE) + ETHERNET.pack(BROADCAST, mac, ETH_P_RARP), request.ljust(SHORTEST, b"\0")
