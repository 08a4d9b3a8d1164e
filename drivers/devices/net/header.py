"""Is this frame's virtio_net_hdr one that may be acted on? Pure; the same for both directions.

The header is checked on a private copy, which is also what goes on to the port: nobody can change it in between.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

from drivers.devices.net.layout import MAX_FRAME
from drivers.ports import ETH_HLEN, HEADER_SIZE, Offloads

__all__ = ["DROPS", "GsoType", "HeaderRules", "NEEDS_CSUM", "num_buffers"]

NEEDS_CSUM = 1
VLAN_HLEN = 4


class GsoType(IntEnum):
    NONE = 0
    TCPV4 = 1
    TCPV6 = 4
    UDP_L4 = 5


_NAMES = {GsoType.TCPV4: "tso4", GsoType.TCPV6: "tso6", GsoType.UDP_L4: "uso"}
_HEADER = struct.Struct("<BBHHHHH")
PLAIN = bytes(10)
"""The header of a frame that leaves nothing undone, but for num_buffers."""

DROPS = ("short_header", "short_frame", "too_long", "bad_csum", "bad_gso", "writable", "used_length", "num_buffers")
"""Causes for which a net device or driver drops a frame itself."""


def num_buffers(head: bytes) -> int:
    """How many receive buffers a frame is spread over."""
    return head[10] | head[11] << 8


@attrs.frozen
class HeaderRules:
    """What was agreed on for one direction."""

    offloads: Offloads
    mtu: int | None
    """Largest packet without Ethernet header, where agreed on."""
    limit: int = attrs.field(init=False)
    """Bytes of the largest frame without GSO, a VLAN tag included."""
    gso_types: frozenset[int] = attrs.field(init=False)

    @limit.default
    def _limit(self) -> int:
        return MAX_FRAME if self.mtu is None else min(MAX_FRAME, self.mtu + ETH_HLEN + VLAN_HLEN)

    @gso_types.default
    def _gso_types(self) -> frozenset[int]:
        return frozenset(int(kind) for kind, name in _NAMES.items() if getattr(self.offloads, name))

    def fault(self, head: bytes, size: int) -> str:
        """Why a frame must be dropped, as one of `DROPS`; empty when it is good.

        ``head`` is the start of header and frame, ``size`` the bytes of both.
        """
        if size <= HEADER_SIZE:
            return "short_header"
        if size < HEADER_SIZE + ETH_HLEN:
            return "short_frame"
        if head.startswith(PLAIN):
            return "too_long" if size - HEADER_SIZE > self.limit else ""
        flags, gso, hdr_len, gso_size, csum_start, csum_offset, _ = _HEADER.unpack_from(head)
        frame = size - HEADER_SIZE
        if frame > (MAX_FRAME if gso else self.limit):
            return "too_long"
        if flags & NEEDS_CSUM and (not self.offloads.csum or csum_start + csum_offset + 2 > frame):
            return "bad_csum"
        if gso and (gso not in self.gso_types or not gso_size or not flags & NEEDS_CSUM or hdr_len > frame):
            return "bad_gso"
        return ""

    def clean(self, head: bytes) -> bytes:
        """``head`` without the flags this side does not know, and num_buffers 0 as ports expect it."""
        if head.startswith(PLAIN):
            return head if not (head[10] or head[11]) else PLAIN + b"\0\0" + head[HEADER_SIZE:]
        return bytes((head[0] & NEEDS_CSUM,)) + head[1:10] + b"\0\0" + head[HEADER_SIZE:]
