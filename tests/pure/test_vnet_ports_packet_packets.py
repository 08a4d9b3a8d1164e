"""A port reads a bounded part of any neighbour discovery message."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, ICMPv6NDOptUnknown, IPv6
from scapy.packet import Packet

from vnet.ports.packet.packets import MESSAGE_MAX, OPTIONS_MAX, NeighbourMessage, read_options

TARGET, SOURCE = "2001:2::1", "2001:2::2"
MAC = "02:00:00:00:00:02"


def solicitation(*options: Packet) -> bytes:
    packet = IPv6(src=SOURCE, dst=TARGET, hlim=255) / ICMPv6ND_NS(tgt=TARGET)
    for option in options:
        packet = packet / option
    return bytes(packet)


def unknown(units: int = 1) -> Packet:
    return ICMPv6NDOptUnknown(type=200, data=bytes(units * 8 - 2))


@pytest.mark.parametrize("count", [1, 2, OPTIONS_MAX])
def test_options_are_read_up_to_the_most_that_one_message_may_have(count: int) -> None:
    message = NeighbourMessage.parse(solicitation(*[unknown()] * (count - 1), ICMPv6NDOptSrcLLAddr(lladdr=MAC)))
    assert message is not None
    assert message.mac == bytes.fromhex(MAC.replace(":", ""))
    assert message.target == ip_address(TARGET).packed


@pytest.mark.parametrize("count", [OPTIONS_MAX + 1, 120])
def test_a_message_with_more_options_is_ignored(count: int) -> None:
    assert NeighbourMessage.parse(solicitation(*[unknown()] * count)) is None


def test_a_message_is_as_large_as_the_smallest_mtu_of_ipv6_allows_and_not_larger() -> None:
    room = MESSAGE_MAX - len(solicitation())
    assert NeighbourMessage.parse(solicitation(unknown(room // 8))) is not None
    assert NeighbourMessage.parse(solicitation(unknown(room // 8), unknown())) is None


@pytest.mark.parametrize("data", [b"\1", b"\1\0" + bytes(6), b"\1\2" + bytes(6), bytes((1, 1)) + bytes(7)])
def test_an_option_without_a_length_or_beyond_the_end_makes_all_of_them_bad(data: bytes) -> None:
    assert read_options(data) is None
