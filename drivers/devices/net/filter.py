"""Receive filter: modes, address tables and VLANs (VIRTIO 1.4 section 5.1.9.5). Pure."""

from __future__ import annotations

import attrs

__all__ = ["EVERYTHING", "FILTER_AT", "FILTER_END", "FrameFilter", "Reception"]

FILTER_AT, FILTER_END = 12, 28
"""Range of a frame with its virtio_net_hdr that the filter looks at: addresses, EtherType and tag."""
BROADCAST = b"\xff" * 6
TYPE_AT, TAG_AT = 12, 14
VLAN_TYPE = b"\x81\x00"
KNOWN_MAX = 1024
"""Maximum number of remembered verdicts."""


@attrs.frozen
class Reception:
    """Receive settings of a station, besides its own address."""

    promisc: bool = False
    """Receive everything; the other fields do not matter then."""
    allmulti: bool = False
    alluni: bool = False
    nomulti: bool = False
    nouni: bool = False
    nobcast: bool = False
    unicast: frozenset[bytes] = frozenset()
    """More unicast addresses, 6 bytes each."""
    multicast: frozenset[bytes] = frozenset()
    vlans: frozenset[int] | None = None
    """VLANs whose tagged frames pass; None for all."""

    def evolve(self, **changes: object) -> Reception:
        """Return a copy with changed fields."""
        return attrs.evolve(self, **changes)  # type: ignore[arg-type]


EVERYTHING = Reception(promisc=True)


class FrameFilter:
    """Filter of one station. Verdicts are remembered, because traffic repeats few heads at a time."""

    def __init__(self, mac: bytes, reception: Reception) -> None:
        self._mac = mac
        self._reception = reception
        self.known: dict[bytes, str] = {}
        """Remembered verdicts, by head: the cause to drop the frame, or ""."""
        self.verdict = self.known.get
        """Returns the remembered verdict of a head, or None; then call `judge`."""

    @property
    def idle(self) -> bool:
        """Whether the filter passes all frames."""
        r = self._reception
        return r.promisc or (r.allmulti and r.alluni and not (r.nomulti or r.nouni or r.nobcast) and r.vlans is None)

    def judge(self, head: bytes) -> str:
        """Return the cause to drop a frame with this head (up to 16 bytes, from its destination on), or "" to pass."""
        cause = "" if self._reception.promisc else self._by_address(head[:6]) or self._by_vlan(head)
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
        self.known[head] = cause
        return cause

    def _by_address(self, to: bytes) -> str:
        r = self._reception
        if to == BROADCAST:
            return "filter_broadcast" if r.nobcast else ""
        if to[0] & 1:
            passes = not r.nomulti and (r.allmulti or to in r.multicast)
            return "" if passes else "filter_multicast"
        passes = not r.nouni and (r.alluni or to == self._mac or to in r.unicast)
        return "" if passes else "filter_unicast"

    def _by_vlan(self, head: bytes) -> str:
        vlans = self._reception.vlans
        if vlans is None or head[TYPE_AT:TAG_AT] != VLAN_TYPE:
            return ""
        tag = head[TAG_AT : TAG_AT + 2]
        return "" if len(tag) == 2 and int.from_bytes(tag, "big") & 0xFFF in vlans else "filter_vlan"
