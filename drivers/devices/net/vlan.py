"""VLAN tags of a frame: end offset, and effect on the maximum size. Pure."""

from __future__ import annotations

import re

from drivers.contracts.ports import ETH_HLEN

__all__ = ["ETHERTYPE_AT", "TAGS_ROOM", "frame_limit", "tags_end"]

ETHERTYPE_AT = 12
TAG_HLEN = 4
TAGS_ROOM = 4 * TAG_HLEN
"""Maximum bytes of VLAN tags in a frame of the full MTU."""
TAGS = re.compile(rb"(?:(?:\x81\x00|\x88\xa8|\x91\x00)..)*", re.DOTALL)
"""Any number of tags: IEEE 802.1Q, 802.1ad, and the EtherType in use before 802.1ad."""


def tags_end(frame: bytes) -> int:
    """Return the offset of the EtherType behind all VLAN tags. ``frame`` is a frame, or its start."""
    tags = TAGS.match(frame, ETHERTYPE_AT)
    return tags.end() if tags else len(frame)


def frame_limit(mtu: int, frame: bytes) -> int:
    """Return the maximum size of a frame with this one's tags: the MTU counts neither Ethernet header nor tags.

    An untagged frame may have the size of one with a tag: its sender may have removed the tag.
    """
    tags = min(tags_end(frame) - ETHERTYPE_AT, TAGS_ROOM)
    return mtu + ETH_HLEN + max(tags, TAG_HLEN)
