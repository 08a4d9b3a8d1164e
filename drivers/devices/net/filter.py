"""Which frames are for the driver: receive modes, tables of addresses and VLANs (VIRTIO 1.4 section 5.1.9.5). Pure."""

from __future__ import annotations

import attrs

__all__ = ["EVERYTHING", "FILTER_AT", "FILTER_END", "FrameFilter", "Reception"]

FILTER_AT, FILTER_END = 12, 28
"""Of a frame behind its virtio_net_hdr: what decides, addresses, type and tag."""
BROADCAST = b"\xff" * 6
TYPE_AT, TAG_AT = 12, 14
VLAN_TYPE = b"\x81\x00"
KNOWN_MAX = 1024


@attrs.frozen
class Reception:
    """What a station wants to receive besides frames for its own address."""

    promisc: bool = False
    """Everything, whatever the rest says."""
    allmulti: bool = False
    alluni: bool = False
    nomulti: bool = False
    nouni: bool = False
    nobcast: bool = False
    unicast: frozenset[bytes] = frozenset()
    """More addresses, of 6 bytes each."""
    multicast: frozenset[bytes] = frozenset()
    vlans: frozenset[int] | None = None
    """The VLANs whose tagged frames pass; None for all."""

    def evolve(self, **changes: object) -> Reception:
        """The same but for these fields."""
        return attrs.evolve(self, **changes)  # type: ignore[arg-type]


EVERYTHING = Reception(promisc=True)


class FrameFilter:
    """One station's filter. Its verdicts are remembered: traffic has few heads at one time."""

    def __init__(self, mac: bytes, reception: Reception) -> None:
        self._mac = mac
        self._reception = reception
        self._known: dict[bytes, str] = {}
        self.known = self._known.get
        """By head: look here first, then call `judge`."""

    @property
    def idle(self) -> bool:
        """Whether it lets everything pass."""
        r = self._reception
        return r.promisc or (r.allmulti and r.alluni and not (r.nomulti or r.nouni or r.nobcast) and r.vlans is None)

    def judge(self, head: bytes) -> str:
        """Why a frame with this head, up to 16 bytes from its destination on, is none for the station; else empty."""
        cause = "" if self._reception.promisc else self._by_address(head[:6]) or self._by_vlan(head)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[head] = cause
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
