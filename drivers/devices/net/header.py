"""Is this frame's virtio_net_hdr one that may be acted on? Pure; the same for both directions.

The header is checked on a private copy, which is also what goes on to the port: nobody can change it in between.
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

__all__ = ["ECN", "KNOWN_MAX", "DATA_VALID", "NEEDS_CSUM", "GsoType", "HeaderRules", "Verdict"]

NEEDS_CSUM, DATA_VALID = 1, 2
ECN = 0x80
"""A flag of the gso_type: the connection uses ECN."""


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
"""What has to have been agreed on for each."""
_HEADER = struct.Struct("<BBHHHHH")
Verdict = tuple[int, int, bytes, int]
"""Bytes of header and frame from which and up to which a head is good, what goes on in its place, num_buffers."""

KNOWN_MAX = 1024
"""Heads that are remembered at a time."""
_NEVER = 1, 0


@attrs.define
class HeaderRules:
    """What was agreed on for one direction, and the heads that were judged by it.

    A head is the first 26 bytes, virtio_net_hdr and Ethernet header. All that can be said of one but for the
    length of its frame is said once: the same heads come again and again.
    """

    offloads: Offloads
    mtu: int | None
    """Largest packet without Ethernet header, where agreed on."""
    vouched: bool = False
    """Whether DATA_VALID counts: if the sender is a device. passt sets it without GUEST_CSUM, and Linux believes it."""
    known: dict[bytes, Verdict] = attrs.field(init=False, factory=dict)
    """Look here first, then call `judge`."""
    valid: set[bytes] = attrs.field(init=False, factory=set)
    """The heads among them whose sender vouches for the checksum, whatever its field says."""

    def _limit(self, frame: bytes) -> int:
        """The size of the largest frame without GSO that starts like this one."""
        return MAX_FRAME if self.mtu is None else min(MAX_FRAME, frame_limit(self.mtu, frame))

    def judge(self, head: bytes) -> Verdict:
        """Which lengths of frame make this head a good one, remembered; none do where it is bad by itself."""
        if len(head) < HEADER_SIZE + ETH_HLEN:
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
        # No other flag is passed on.
        clean = head if flags in (0, NEEDS_CSUM) else bytes((flags & NEEDS_CSUM,)) + head[1:]
        verdict = (*((low + HEADER_SIZE, high + HEADER_SIZE) if good else _NEVER), clean, count)
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
            self.valid.clear()
        self.known[head] = verdict
        if self.vouched and flags & (NEEDS_CSUM | DATA_VALID) == DATA_VALID:
            self.valid.add(head)
        return verdict

    def cause(self, head: bytes, size: int, rest: Sequence[memoryview]) -> str:
        """Why to drop a frame of ``size`` bytes, header included, that its head's verdict does not allow.

        Empty for a frame that is good all the same: one with several VLAN tags in ``rest``, what follows its head.
        """
        if size <= HEADER_SIZE:
            return "short_header" if size else "used_length"
        if size < HEADER_SIZE + ETH_HLEN:
            return "short_frame"
        flags, gso, _, _, csum_start, csum_offset, _ = _HEADER.unpack_from(head)
        limit = MAX_FRAME if gso else self._limit(head[HEADER_SIZE:] + copy_out(rest, TAGS_ROOM))
        if size - HEADER_SIZE > limit:
            return "too_long"
        if flags & NEEDS_CSUM and (not self.offloads.csum or csum_start + csum_offset + 2 > size - HEADER_SIZE):
            return "bad_csum"
        low, high, *_ = self.judge(head)
        return "" if low <= high < size else "bad_gso"
