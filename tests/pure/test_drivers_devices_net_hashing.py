"""Hashes of received frames: what is hashed of each kind of packet, and the hash."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    HAO,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from drivers.devices.net.hashing import HASH_TYPES, NO_HASH, Hasher, HashType, classify, toeplitz
from drivers.devices.net.steering import KEY

T = HashType
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
NO_IP = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x0800)
V4 = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5D1809C5, 0x10E828A2),
]
V6 = [
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2CC18CD5, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
    ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4B61E985, 0x02D1FEEF),
]
"""Source, destination, hash of the addresses, and with TCP's ports, for `KEY`: the published examples."""


@pytest.mark.parametrize(("source", "sport", "destination", "dport", "plain", "ports"), [*V4, *V6])
def test_hashes_are_those_of_the_published_examples(
    source: str, sport: int, destination: str, dport: int, plain: int, ports: int
) -> None:
    addresses = ip_address(source).packed + ip_address(destination).packed
    assert toeplitz(KEY, addresses) == plain
    assert toeplitz(KEY, addresses + struct.pack(">HH", sport, dport)) == ports
    six = ":" in source
    network = IPv6(src=source, dst=destination) if six else IP(src=source, dst=destination)
    frame = bytes(ETHER / network / TCP(sport=sport, dport=dport))
    alone, with_ports = (T.IPV6, T.TCPV6) if six else (T.IPV4, T.TCPV4)
    assert Hasher(1 << alone, KEY).hash(frame) == (alone + 1, plain)
    assert Hasher(1 << alone | 1 << with_ports, KEY).hash(frame) == (with_ports + 1, ports)


def test_a_short_key_is_followed_by_zeros() -> None:
    data = bytes(range(1, 37))
    assert toeplitz(KEY[:5], data) == toeplitz(KEY[:5].ljust(40, b"\0"), data)
    assert toeplitz(b"", data) == 0


A, B, HOME, ROUTED = (ip_address(f"2001:2::{last}") for last in (1, 2, 3, 4))
SIX = IPv6(src=str(A), dst=str(B))
FOUR, PORTS = IP(src="198.18.0.1", dst="198.18.0.2"), {"sport": 0x1122, "dport": 0x3344}
FOUR_DATA, SIX_DATA = ip_address("198.18.0.1").packed + ip_address("198.18.0.2").packed, A.packed + B.packed
PORT_DATA = bytes.fromhex("11223344")
OPTION = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0"), HAO(hoa=str(HOME))])
SECOND = IPv6ExtHdrRouting(type=2, addresses=[str(ROUTED)], segleft=1)
HOP = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
MOBILE = HOME.packed + ROUTED.packed
ROWS: Mapping[str, tuple[Packet, list[tuple[HashType, bytes]]]] = {
    "TCP": (FOUR / TCP(**PORTS), [(T.TCPV4, FOUR_DATA + PORT_DATA), (T.IPV4, FOUR_DATA)]),
    "UDP": (FOUR / UDP(**PORTS), [(T.UDPV4, FOUR_DATA + PORT_DATA), (T.IPV4, FOUR_DATA)]),
    "ICMP": (FOUR / ICMP(), [(T.IPV4, FOUR_DATA)]),
    "TCP behind options": (
        IP(src="198.18.0.1", dst="198.18.0.2", options=[IPOption_NOP() for _ in range(4)]) / TCP(**PORTS),
        [(T.TCPV4, FOUR_DATA + PORT_DATA), (T.IPV4, FOUR_DATA)],
    ),
    "first fragment": (
        IP(src="198.18.0.1", dst="198.18.0.2", flags="MF") / UDP(**PORTS),
        [(T.IPV4, FOUR_DATA)],
    ),
    "last fragment": (IP(src="198.18.0.1", dst="198.18.0.2", frag=9, proto=17) / Raw(bytes(8)), [(T.IPV4, FOUR_DATA)]),
    "tagged": (Dot1Q(vlan=5) / FOUR / UDP(**PORTS), [(T.UDPV4, FOUR_DATA + PORT_DATA), (T.IPV4, FOUR_DATA)]),
    "tagged twice": (
        Dot1AD(vlan=5) / Dot1Q(vlan=6) / SIX / TCP(**PORTS),
        [(T.TCPV6, SIX_DATA + PORT_DATA), (T.IPV6, SIX_DATA)],
    ),
    "TCP over IPv6": (SIX / TCP(**PORTS), [(T.TCPV6, SIX_DATA + PORT_DATA), (T.IPV6, SIX_DATA)]),
    "UDP over IPv6": (SIX / UDP(**PORTS), [(T.UDPV6, SIX_DATA + PORT_DATA), (T.IPV6, SIX_DATA)]),
    "ICMPv6": (SIX / ICMPv6EchoRequest(), [(T.IPV6, SIX_DATA)]),
    "TCP behind a hop-by-hop header": (
        SIX / HOP / TCP(**PORTS),
        [
            (T.TCPV6_EX, SIX_DATA + PORT_DATA),
            (T.IPV6_EX, SIX_DATA),
            (T.TCPV6, SIX_DATA + PORT_DATA),
            (T.IPV6, SIX_DATA),
        ],
    ),
    "TCP of a mobile node": (
        SIX / SECOND / OPTION / TCP(**PORTS),
        [(T.TCPV6_EX, MOBILE + PORT_DATA), (T.IPV6_EX, MOBILE), (T.TCPV6, SIX_DATA + PORT_DATA), (T.IPV6, SIX_DATA)],
    ),
    "UDP of a mobile node": (
        SIX / HOP / OPTION / UDP(**PORTS),
        [
            (T.UDPV6_EX, HOME.packed + B.packed + PORT_DATA),
            (T.IPV6_EX, HOME.packed + B.packed),
            (T.UDPV6, SIX_DATA + PORT_DATA),
            (T.IPV6, SIX_DATA),
        ],
    ),
    "fragment of a mobile node": (
        SIX / SECOND / IPv6ExtHdrFragment(m=1) / UDP(**PORTS),
        [(T.IPV6_EX, A.packed + ROUTED.packed), (T.IPV6, SIX_DATA)],
    ),
    "ARP": (ARP(), []),
    "no IP behind the EtherType": (Raw(b"\x45" * 10), []),
}


@pytest.mark.virtio("NET-DEV-66", "NET-DEV-67")
@pytest.mark.parametrize(("packet", "candidates"), ROWS.values(), ids=ROWS)
def test_the_first_type_that_is_enabled_says_what_is_hashed(
    packet: Packet, candidates: list[tuple[HashType, bytes]]
) -> None:
    frame, types = bytes((NO_IP if isinstance(packet, Raw) else ETHER) / packet), HASH_TYPES
    for kind, data in candidates:
        assert classify(frame, types) == (kind + 1, data)
        types &= ~(1 << kind)
    assert classify(frame, types) == (0, b"")
    assert Hasher(types, KEY).hash(frame) == NO_HASH


def test_no_bytes_of_any_kind_raise_and_what_is_cut_has_no_ports() -> None:
    rng = random.Random(3)
    whole = [bytearray(bytes(ETHER / packet)) for packet, candidates in ROWS.values() if candidates]
    for _ in range(5000):
        frame = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(4)):
            frame[rng.randrange(12, len(frame))] = rng.randrange(256)
        report, data = classify(bytes(frame[: rng.randrange(len(frame) + 1)]), HASH_TYPES)
        assert len(data) in ((0,) if not report else (8, 12, 32, 36))


def test_remembered_hashes_are_bounded() -> None:
    hasher = Hasher(1 << T.IPV4, KEY)
    frame = bytearray(bytes(ETHER / FOUR / UDP()))
    for number in range(3000):
        frame[26:30] = number.to_bytes(4, "big")
        hasher.hash(bytes(frame))
    assert len(hasher._known) <= 1024
