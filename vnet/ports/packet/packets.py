"""Packets that a port parses and emits itself: ARP, neighbour solicitation and advertisement."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import attrs

from drivers.devices.net.software import ones_sum

__all__ = [
    "ALL_NODES",
    "ARP_REPLY",
    "ARP_REQUEST",
    "BROADCAST",
    "ETH_P_ARP",
    "ETH_P_IP",
    "ETH_P_IPV6",
    "MESSAGE_MAX",
    "NEIGHBOUR_ADVERTISEMENT",
    "NEIGHBOUR_SOLICITATION",
    "OVERRIDE",
    "SOLICITED",
    "Arp",
    "NeighbourMessage",
    "destination",
    "ethernet",
    "group_mac",
    "in_network",
    "is_unicast",
    "multicast_mac",
    "solicited_node",
    "source",
]

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
BROADCAST = b"\xff" * 6
ARP_REQUEST = 1
ARP_REPLY = 2
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
NEIGHBOUR_SOLICITATION = 135
NEIGHBOUR_ADVERTISEMENT = 136
SOLICITED, OVERRIDE = 0x40, 0x20
"""Flags of a neighbour advertisement."""

MESSAGE_MAX = 1280
"""Maximum size of a parsed packet in bytes: every link carries it, and neighbour discovery is not fragmented
(RFC 8200, RFC 6980)."""
ARP = struct.Struct(">HHBBH6s4s6s4s")
ARP_ETHERNET_IPV4 = (1, ETH_P_IP, 6, 4)
IPV6 = struct.Struct(">IHBB16s16s")
IPV6_VERSION = 6 << 28
ICMPV6 = 58
HOP_LIMIT = 255
"""Hop limit of all neighbour discovery messages; a router would have decremented it (RFC 4861)."""
MESSAGE = struct.Struct(">BBHI16s")
OPTION_UNIT = 8
OPTIONS_MAX = 32
"""Maximum number of options per message; RFC 4861 and RFC 3971 together define ten."""
OPTIONS = {NEIGHBOUR_SOLICITATION: 1, NEIGHBOUR_ADVERTISEMENT: 2}
"""Option that carries the sender's MAC: source link-layer address, target link-layer address."""
SOLICITED_NODE_PREFIX = bytes.fromhex("ff02000000000000 00000001ff")


@attrs.frozen
class Arp:
    """An ARP packet for IPv4 over Ethernet (RFC 826)."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes

    @classmethod
    def parse(cls, payload: bytes) -> Arp | None:
        """Parse a payload, ignoring padding; return None if it is too short, or not IPv4 over Ethernet."""
        if len(payload) < ARP.size:
            return None
        *kind, operation, sender_mac, sender, target_mac, target = ARP.unpack_from(payload)
        if tuple(kind) != ARP_ETHERNET_IPV4:
            return None
        return cls(operation, sender_mac, sender, target_mac, target)

    def emit(self) -> bytes:
        """Return the packet: 28 bytes."""
        return ARP.pack(*ARP_ETHERNET_IPV4, self.operation, self.sender_mac, self.sender, self.target_mac, self.target)


@attrs.frozen
class NeighbourMessage:
    """A neighbour solicitation or advertisement with its IPv6 header (RFC 4861, section 4)."""

    kind: int
    source: bytes
    destination: bytes
    target: bytes
    mac: bytes | None = None
    """MAC in the link-layer address option; None without the option."""
    flags: int = 0
    """Flags of an advertisement: router 0x80, solicited 0x40, override 0x20."""

    @staticmethod
    def applies(packet: bytes) -> bool:
        """Return whether an IPv6 packet is a neighbour solicitation or advertisement, valid or not."""
        return len(packet) > IPV6.size and packet[6] == ICMPV6 and packet[IPV6.size] in OPTIONS

    @classmethod
    def parse(cls, packet: bytes) -> NeighbourMessage | None:
        """Parse a packet; return None if it exceeds `MESSAGE_MAX` or fails RFC 4861, sections 7.1.1 and 7.1.2."""
        if not IPV6.size + MESSAGE.size <= len(packet) <= MESSAGE_MAX:
            return None
        first, size, protocol, hops, source, destination = IPV6.unpack_from(packet)
        body = packet[IPV6.size : IPV6.size + size]
        if first >> 28 != 6 or protocol != ICMPV6 or hops != HOP_LIMIT or not MESSAGE.size <= size == len(body):
            return None
        kind, code, _, word, target = MESSAGE.unpack_from(body)
        if kind not in OPTIONS or code or target[0] == 0xFF or checksum(source, destination, body):
            return None
        options = read_options(body[MESSAGE.size :])
        if options is None:
            return None
        mac = options.get(OPTIONS[kind])
        probe = kind == NEIGHBOUR_SOLICITATION and not any(source)
        if probe and (destination[:13] != SOLICITED_NODE_PREFIX or mac is not None):
            return None
        flags = word >> 24 if kind == NEIGHBOUR_ADVERTISEMENT else 0
        if flags & SOLICITED and destination[0] == 0xFF:
            return None
        return cls(kind, source, destination, target, mac, flags)

    def emit(self) -> bytes:
        """Return the IPv6 packet with its checksum."""
        body = MESSAGE.pack(self.kind, 0, 0, self.flags << 24, self.target)
        if self.mac is not None:
            body += bytes((OPTIONS[self.kind], 1)) + self.mac
        body = body[:2] + struct.pack(">H", checksum(self.source, self.destination, body)) + body[4:]
        return IPV6.pack(IPV6_VERSION, len(body), ICMPV6, HOP_LIMIT, self.source, self.destination) + body


def read_options(data: bytes) -> dict[int, bytes] | None:
    """Parse options; return the contents of those of one unit (8 bytes) by type.

    Returns None if an option has length 0 or ends beyond ``data``, or for more than `OPTIONS_MAX` options.
    """
    options: dict[int, bytes] = {}
    at = 0
    for _ in range(OPTIONS_MAX):
        if at == len(data):
            return options
        size = data[at + 1] * OPTION_UNIT if at + 1 < len(data) else 0
        if not 0 < size <= len(data) - at:
            return None
        if size == OPTION_UNIT:
            options[data[at]] = data[at + 2 : at + size]
        at += size
    return options if at == len(data) else None


def checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """Return the ICMPv6 checksum (RFC 4443, section 2.3); 0 for a body with a correct checksum."""
    return ~ones_sum(source + destination + struct.pack(">II", len(body), ICMPV6) + body) & 0xFFFF


def ethernet(to: bytes, source: bytes, ethertype: int) -> bytes:
    """Return an Ethernet header of 14 bytes."""
    return to + source + struct.pack(">H", ethertype)


def destination(packet: bytes | bytearray) -> bytes:
    """Return the destination address of an IP packet: 4 or 16 bytes."""
    return bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])


def source(packet: bytes) -> bytes:
    """Return the source address of an IP packet: 4 or 16 bytes."""
    return packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]


def is_unicast(mac: bytes) -> bool:
    """Return whether ``mac`` is a valid unicast address."""
    return len(mac) == 6 and not mac[0] & 1 and any(mac)


def in_network(address: bytes, network: tuple[bytes, int]) -> bool:
    """Return whether an IP address is in ``network``: an address in it, and its prefix length."""
    base, prefix = network
    if len(base) != len(address):
        return False
    host = 8 * len(base) - prefix
    return int.from_bytes(address, "big") >> host == int.from_bytes(base, "big") >> host


def group_mac(address: bytes, networks: Iterable[tuple[bytes, int]]) -> bytes | None:
    """Return the group MAC of an IP multicast or broadcast ``address``; None for another address.

    The last address of each of the IPv4 ``networks`` is its broadcast address, except in a network of two addresses.
    """
    if address[0] >= 224 if len(address) == 4 else address[0] == 0xFF:
        return multicast_mac(address)
    if len(address) == 4:
        for base, prefix in networks:
            last = (1 << 32 - prefix) - 1 if len(base) == 4 else 0
            if last > 1 and in_network(address, (base, prefix)) and int.from_bytes(address, "big") & last == last:
                return BROADCAST
    return None


def multicast_mac(address: bytes) -> bytes:
    """Return the MAC of an IP multicast or limited broadcast ``address`` (RFC 1112, RFC 2464)."""
    if len(address) == 16:
        return b"\x33\x33" + address[12:]
    if address[0] >= 240:
        return BROADCAST
    return b"\x01\x00\x5e" + bytes((address[1] & 0x7F,)) + address[2:]


def solicited_node(address: bytes) -> bytes:
    """Return the solicited-node multicast address of an IPv6 ``address`` (RFC 4291, section 2.7.1)."""
    return SOLICITED_NODE_PREFIX + address[13:]
