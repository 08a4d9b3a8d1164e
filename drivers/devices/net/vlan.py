"""VLAN tags of a frame: where they end, and what they add to its size. Pure."""

from __future__ import annotations

import re

from drivers.contracts.ports import ETH_HLEN

__all__ = ["ETHERTYPE_AT", "TAGS_ROOM", "frame_limit", "tags_end"]

ETHERTYPE_AT = 12
TAG_HLEN = 4
TAGS_ROOM = 4 * TAG_HLEN
"""Bytes of VLAN tags that a frame of the full MTU may have."""
TAGS = re.compile(rb"(?:(?:\x81\x00|\x88\xa8|\x91\x00)..)*", re.DOTALL)
"""Any number of tags: IEEE 802.1Q, 802.1ad, and the EtherType that came before 802.1ad."""


def tags_end(frame: bytes) -> int:
    """The offset of the EtherType behind all VLAN tags. ``frame`` is a frame, or its start."""
    tags = TAGS.match(frame, ETHERTYPE_AT)
    return tags.end() if tags else len(frame)


def frame_limit(mtu: int, frame: bytes) -> int:
    """The size of the largest frame with the tags of this one: the MTU counts neither Ethernet header nor tags.

    A frame without a tag may be as large as one with a tag: its sender may have taken the tag off.
    """
    tags = min(tags_end(frame) - ETHERTYPE_AT, TAGS_ROOM)
    return mtu + ETH_HLEN + max(tags, TAG_HLEN)
