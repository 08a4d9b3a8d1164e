"""Unsolicited frames that announce a station's place in the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drivers.devices.net.device.rarp import rarp
from vnet.ports.packet.packets import (
    ALL_NODES,
    ARP_REQUEST,
    BROADCAST,
    ETH_P_ARP,
    ETH_P_IPV6,
    NEIGHBOUR_ADVERTISEMENT,
    OVERRIDE,
    Arp,
    NeighbourMessage,
    ethernet,
    multicast_mac,
)

__all__ = ["announcements"]


def announcements(mac: bytes, addresses: Iterable[bytes]) -> Iterator[bytes]:
    """Yield Ethernet frames that announce a station with these IP ``addresses`` of 4 or 16 bytes.

    Each address gets an ARP announcement (RFC 5227) or an unsolicited neighbour advertisement (RFC 4861, section
    7.2.6). Without addresses, a reverse ARP request (RFC 903) lets at least bridges learn the MAC.
    """
    none = True
    for address in addresses:
        none = False
        if len(address) == 4:
            arp = Arp(ARP_REQUEST, mac, address, bytes(6), address)
            yield ethernet(BROADCAST, mac, ETH_P_ARP) + arp.emit()
        else:
            message = NeighbourMessage(NEIGHBOUR_ADVERTISEMENT, address, ALL_NODES, address, mac, OVERRIDE)
            yield ethernet(multicast_mac(ALL_NODES), mac, ETH_P_IPV6) + message.emit()
    if none:
        yield rarp(mac)
