"""Check of virtio_net_hdr. Pure; the same for both directions.

A private copy of the header is checked and passed on to the port, so that the other side cannot change it in between.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum

import attrs

from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, Offloads
from drivers.devices.net.layout import MAX_FRAME
from drivers.devices.net.vlan import TAGS_ROOM, frame_limit
from rings.chain import copy_out

__all__ = [
    "DATA_VALID",
    "ECN",
    "HEAD",
    "KNOWN_MAX",
    "NEEDS_CSUM",
    "GsoType",
    "HeaderRules",
    "Verdict",
    "set_header_length",
    "unpack_head",
]

HEAD = HEADER_SIZE + ETH_HLEN
"""Bytes of a head: virtio_net_hdr and Ethernet header, by which frames are judged."""
unpack_head = struct.Struct(f"{HEAD}s").unpack_from
"""Returns a tuple of a private copy of the head that starts a buffer of `HEAD` bytes or more; cheaper than a slice."""

NEEDS_CSUM, DATA_VALID = 1, 2
ECN = 0x80
"""Flag of gso_type: the connection uses ECN."""


UDP_HLEN, DATA_OFFSET = 8, 12
"""Bytes of a UDP header, and offset of a TCP header's length, in its upper four bits."""


class GsoType(IntEnum):
    NONE = 0
    TCPV4 = 1
    TCPV6 = 4
    UDP_L4 = 5


_NAMES: Mapping[int, tuple[str, ...]] = {
    GsoType.TCPV4: ("tso4",),
    GsoType.TCPV6: ("tso6",),
    GsoType.UDP_L4: ("uso",),
    GsoType.TCPV4 | ECN: ("tso4", "ecn"),
    GsoType.TCPV6 | ECN: ("tso6", "ecn"),
}
"""Required offloads, per gso_type."""
_HEADER = struct.Struct("<BBHHHHH")
Verdict = tuple[int, int, bytes, int]
"""Minimum and maximum bytes of header and frame for which a head is valid, the head to pass on, num_buffers."""

KNOWN_MAX = 1024
"""Maximum number of remembered heads."""
_NEVER = 1, 0


def set_header_length(frame: memoryview, room: int) -> None:
    """Set hdr_len of a segmented frame to the bytes of its headers, through the transport header (section 5.1.9.2.1).

    ``room``: bytes between virtio_net_hdr and frame. A port's kernel leaves a hint there. A frame that is too short for
    its transport header is left as it is: a device drops it.
    """
    kind = frame[1] & ~ECN
    if not kind:
        return
    start = int.from_bytes(frame[6:8], "little")
    at = HEADER_SIZE + room + start + DATA_OFFSET
    if kind == GsoType.UDP_L4:
        frame[2:4] = (start + UDP_HLEN).to_bytes(2, "little")
    elif at < len(frame):
        frame[2:4] = (start + (frame[at] >> 4) * 4).to_bytes(2, "little")


@attrs.define
class HeaderRules:
    """Rules for one direction, from the negotiated features, and remembered verdicts of heads.

    Everything except the frame's length is judged once per head, because traffic repeats heads.
    """

    offloads: Offloads
    mtu: int | None
    """Maximum packet size without Ethernet header; None if not negotiated."""
    accept_data_valid: bool = False
    """Whether DATA_VALID counts, as from a device. passt sets it without GUEST_CSUM, and Linux accepts that."""
    known: dict[bytes, Verdict] = attrs.field(init=False, factory=dict)
    """Remembered verdicts; call `judge` for other heads."""
    data_valid: set[bytes] = attrs.field(init=False, factory=set)
    """Remembered heads with DATA_VALID: the checksum field may be wrong."""

    def _limit(self, frame: bytes) -> int:
        """Return the maximum size of a frame without GSO that starts like this one."""
        return MAX_FRAME if self.mtu is None else min(MAX_FRAME, frame_limit(self.mtu, frame))

    def judge(self, head: bytes) -> Verdict:
        """Judge a head and remember the verdict. An invalid head allows no length."""
        if len(head) < HEAD:
            return (*_NEVER, head, 1)
        flags, gso, hdr_len, gso_size, csum_start, csum_offset, count = _HEADER.unpack_from(head)
        low, high = ETH_HLEN, self._limit(head[HEADER_SIZE:])
        good = True
        if flags & NEEDS_CSUM:
            low = max(low, csum_start + csum_offset + 2)
            good = self.offloads.csum
        if gso:
            low, high = max(low, hdr_len), MAX_FRAME
            names = _NAMES.get(gso, ("",))
            good &= all(getattr(self.offloads, name, False) for name in names)
            good &= gso_size > 0 and bool(flags & NEEDS_CSUM)
        # All other flags are cleared.
        clean = head if flags in (0, NEEDS_CSUM) else bytes((flags & NEEDS_CSUM,)) + head[1:]
        verdict = (*((low + HEADER_SIZE, high + HEADER_SIZE) if good else _NEVER), clean, count)
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
            self.data_valid.clear()
        self.known[head] = verdict
        if self.accept_data_valid and flags & (NEEDS_CSUM | DATA_VALID) == DATA_VALID:
            self.data_valid.add(head)
        return verdict

    def cause(self, head: bytes, size: int, rest: Sequence[memoryview]) -> str:
        """Return the cause to drop a frame of ``size`` bytes, including the header, that its verdict does not allow.

        Returns "" if several VLAN tags in ``rest``, the bytes behind the head, make the frame valid.
        """
        if size <= HEADER_SIZE:
            return "short_header" if size else "used_length"
        if size < HEAD:
            return "short_frame"
        flags, gso, _, _, csum_start, csum_offset, _ = _HEADER.unpack_from(head)
        limit = MAX_FRAME if gso else self._limit(head[HEADER_SIZE:] + copy_out(rest, TAGS_ROOM))
        if size - HEADER_SIZE > limit:
            return "too_long"
        if flags & NEEDS_CSUM and (not self.offloads.csum or csum_start + csum_offset + 2 > size - HEADER_SIZE):
            return "bad_csum"
        low, high, *_ = self.judge(head)
        return "" if low <= high < size else "bad_gso"
