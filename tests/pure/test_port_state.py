"""What an interface wants, out of what netlink lists."""

from __future__ import annotations

from typing import Any

import pytest

from drivers.ports import PortState
from vnet.ports.announce import announcements
from vnet.ports.packets import Arp, NeighbourMessage
from vnet.ports.watch import state_of

MAC = b"\x02\0\0\0\0\x01"
TAP: dict[str, Any] = {"index": 2, "flags": 0x1043, "address": "02:00:00:00:00:01", "promiscuity": 0}


def vlan(index: int, link: int, vid: int) -> dict[str, Any]:
    return {"index": index, "flags": 0, "link": link, "linkinfo": {"kind": "vlan", "data": {"vlan_id": vid}}}


@pytest.mark.parametrize(
    ("links", "state"),
    [
        ([TAP], PortState(MAC, vlans=frozenset())),
        ([TAP | {"promiscuity": 2}], PortState(MAC, promisc=True, vlans=frozenset())),
        ([TAP | {"flags": 0x1243}], PortState(MAC, allmulti=True, vlans=frozenset())),
        ([vlan(5, 2, 7), TAP, vlan(6, 2, 4094), vlan(7, 3, 9)], PortState(MAC, vlans=frozenset({7, 4094}))),
        ([{"index": 2, "flags": 0}], PortState(vlans=frozenset())),
        (
            [{"index": 3, "flags": 0, "link": 2, "linkinfo": {"kind": "macvlan"}}, TAP],
            PortState(MAC, vlans=frozenset()),
        ),
        ([], PortState(vlans=frozenset())),
    ],
    ids=["plain", "promiscuous", "all groups", "VLANs", "without an address", "another kind on top", "gone"],
)
def test_state_is_read_from_the_list_of_interfaces(links: list[dict[str, Any]], state: PortState) -> None:
    assert state_of(links, 2) == state


@pytest.mark.virtio("NET-DRV-82")
def test_every_address_is_announced_by_its_own_protocol_and_none_by_reverse_arp() -> None:
    v4, v6 = bytes((198, 18, 0, 1)), bytes.fromhex("20010002000000000000000000000001")
    arp, neighbour = announcements(MAC, (v4, v6))
    assert arp[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
    told = Arp.parse(arp[14:])
    assert told is not None
    assert (told.sender_mac, told.sender, told.target) == (MAC, v4, v4)
    assert neighbour[:14] == bytes.fromhex("333300000001") + MAC + b"\x86\xdd"
    message = NeighbourMessage.parse(neighbour[14:])
    assert message is not None
    assert (message.target, message.mac, message.flags) == (v6, MAC, 0x20), "unsolicited, and overrides"
    [reverse] = announcements(MAC, ())
    assert (reverse[:14], len(reverse)) == (b"\xff" * 6 + MAC + b"\x80\x35", 42)
