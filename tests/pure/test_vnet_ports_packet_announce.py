"""Frames that announce a station."""

from __future__ import annotations

import pytest

from vnet.ports.packet.announce import announcements
from vnet.ports.packet.packets import Arp, NeighbourMessage

MAC = b"\x02\0\0\0\0\x01"


@pytest.mark.virtio("NET-DRV-82")
def test_every_address_is_announced_by_its_own_protocol_and_none_by_reverse_arp() -> None:
    v4, v6 = bytes((198, 18, 0, 1)), bytes.fromhex("20010002000000000000000000000001")
    arp, neighbour = announcements(MAC, (v4, v6))
    assert arp[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
    events = Arp.parse(arp[14:])
    assert events is not None
    assert (events.sender_mac, events.sender, events.target) == (MAC, v4, v4)
    assert neighbour[:14] == bytes.fromhex("333300000001") + MAC + b"\x86\xdd"
    message = NeighbourMessage.parse(neighbour[14:])
    assert message is not None
    assert (message.target, message.mac, message.flags) == (v6, MAC, 0x20), "unsolicited, and overrides"
    [reverse] = announcements(MAC, ())
    assert (reverse[:14], len(reverse)) == (b"\xff" * 6 + MAC + b"\x80\x35", 42)
