"""Toeplitz hashes of received frames (VIRTIO 1.4 section 5.1.9.4.3). Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum

import attrs

from drivers.contracts.ports import HEADER_SIZE
from drivers.devices.net.vlan import tags_end
from rings.chain import skip, take
from rings.features import bits, mask

__all__ = [
    "HASH_HEAD",
    "HASH_REPORT",
    "HASH_TYPES",
    "KEY_SIZE",
    "NO_HASH",
    "REPORT_END",
    "FrameHash",
    "HashType",
    "Hasher",
    "classify",
    "report_of",
    "toeplitz",
    "without_report",
]


class HashType(IntEnum):
    """A kind of packets with the fields that are hashed: its bit in a bitmap of types. A report of it is one more."""

    IPV4 = 0
    TCPV4 = 1
    UDPV4 = 2
    IPV6 = 3
    TCPV6 = 4
    UDPV6 = 5
    IPV6_EX = 6
    TCPV6_EX = 7
    UDPV6_EX = 8


T = HashType
HASH_TYPES = mask(HashType)
"""All types: our device has them."""
KEY_SIZE = 40
"""Bytes of the longest key: as many as the longest input, and 4."""
HASH_HEAD = 256
"""Bytes of the start of a frame that are looked at; a packet whose headers are longer counts as one without ports."""
FrameHash = tuple[int, int]
"""Report and hash of a frame."""
NO_HASH: FrameHash = 0, 0
"""No type that is enabled fits the frame."""
KNOWN_MAX = 1024
"""Maximum number of remembered hashes."""
WORD = 0xFFFF_FFFF
HASH_REPORT = struct.Struct("<IHxx")
"""Layout of a report behind the virtio_net_hdr: hash, report."""
REPORT_END = HEADER_SIZE + HASH_REPORT.size
REPORTS: Mapping[int, str] = {0: "none", **{kind + 1: kind.name.lower() for kind in HashType}}
"""Names of reports."""

TCP, UDP = 6, 17
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, AUTHENTICATION, MOBILITY = 0, 43, 44, 60, 51, 135
EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, AUTHENTICATION, MOBILITY})
IPV4_SIZE, IPV6_SIZE = 20, 40
FRAGMENTED = 0x3FFF
"""Bits of an IPv4 header: more fragments, and the offset of this one."""
PAD1, HOME_ADDRESS = 0, 0xC9
"""Options of a destination options header (RFC 8200, RFC 6275)."""
ROUTING_TYPE_2 = 2


def toeplitz(key: bytes, data: bytes) -> int:
    """Return the 32-bit Toeplitz hash of at most 36 bytes; a key shorter than 40 bytes is followed by zeros."""
    value, width = int.from_bytes(key.ljust(KEY_SIZE, b"\0"), "big"), 8 * KEY_SIZE - 32
    top, result = width - 8 * len(data) + 1, 0
    for bit in bits(int.from_bytes(data, "big")):
        result ^= value >> top + bit
    return result & WORD


def _pick(types: int, candidates: tuple[tuple[HashType, bytes], ...]) -> tuple[int, bytes]:
    """Return the report and the bytes to hash of the first candidate whose type is enabled."""
    for kind, data in candidates:
        if types >> kind & 1:
            return kind + 1, data
    return 0, b""


def _transport(
    protocol: int, addresses: bytes, ports: bytes, kinds: tuple[HashType, HashType, HashType]
) -> tuple[tuple[HashType, bytes], ...]:
    """Return the candidates of a packet; ``kinds``: those for TCP, UDP and addresses alone."""
    tcp, udp, plain = kinds
    first = {TCP: tcp, UDP: udp}.get(protocol)
    alone = (plain, addresses)
    return (alone,) if first is None or len(ports) < 4 else ((first, addresses + ports), alone)


def classify(frame: bytes, types: int) -> tuple[int, bytes]:
    """Return the report of the first `HASH_HEAD` bytes of a frame, and the bytes to hash; (0, b"") for none.

    A fragment counts as a packet without ports, so that all fragments of a packet have the same hash.
    """
    at = tags_end(frame)
    ethertype, packet = frame[at : at + 2], frame[at + 2 :]
    if ethertype == b"\x08\x00" and len(packet) >= IPV4_SIZE and packet[0] >> 4 == 4:
        start = (packet[0] & 15) * 4
        whole = start >= IPV4_SIZE and not int.from_bytes(packet[6:8], "big") & FRAGMENTED
        ports = packet[start : start + 4] if whole else b""
        return _pick(types, _transport(packet[9], packet[12:20], ports, (T.TCPV4, T.UDPV4, T.IPV4)))
    if ethertype == b"\x86\xdd" and len(packet) >= IPV6_SIZE and packet[0] >> 4 == 6:
        return _pick(types, _ipv6(packet))
    return 0, b""


def _ipv6(packet: bytes) -> tuple[tuple[HashType, bytes], ...]:
    """Return the candidates of a packet, first those for extension headers, if it has any."""
    source, destination = packet[8:24], packet[24:40]
    plain, protocol, at = source + destination, packet[6], IPV6_SIZE
    whole = True
    while protocol in EXTENSIONS and at + 8 <= len(packet):
        size = 8 + (packet[at + 1] * 8 if protocol != AUTHENTICATION else packet[at + 1] * 4)
        header = packet[at : at + size]
        if protocol == FRAGMENT:
            size, whole = 8, False
        elif protocol == DESTINATION:
            source = _home_address(header) or source
        elif protocol == ROUTING and header[2] == ROUTING_TYPE_2 and len(header) >= 24:
            destination = header[8:24]
        protocol, at = header[0], at + size
    ports = packet[at : at + 4] if whole else b""
    usual = _transport(protocol, plain, ports, (T.TCPV6, T.UDPV6, T.IPV6))
    if at == IPV6_SIZE:
        return usual
    return (*_transport(protocol, source + destination, ports, (T.TCPV6_EX, T.UDPV6_EX, T.IPV6_EX)), *usual)


def _home_address(header: bytes) -> bytes | None:
    """Return the home address in a destination options header; None without one."""
    at = 2
    while at + 2 <= len(header):
        kind, size = header[at], header[at + 1]
        if kind == HOME_ADDRESS and size == 16 and at + 18 <= len(header):
            return header[at + 2 : at + 18]
        at += 1 if kind == PAD1 else 2 + size
    return None


def without_report(segs: Sequence[memoryview]) -> list[memoryview]:
    """Return a frame without the hash report behind its virtio_net_hdr."""
    return [*take(segs, HEADER_SIZE), *skip(segs, REPORT_END)]


def report_of(start: bytes | memoryview) -> str:
    """Return the name of the report in the start of a frame; "unknown" for a number that no type has."""
    if len(start) < REPORT_END:
        return REPORTS[0]
    return REPORTS.get(HASH_REPORT.unpack_from(start, HEADER_SIZE)[1], "unknown")


@attrs.define
class Hasher:
    """Hashes frames by enabled types and a key, and remembers what it has hashed, because traffic repeats flows."""

    types: int = 0
    """Bitmap of `HashType`."""
    key: bytes = b""
    """At most `KEY_SIZE` bytes."""
    _known: dict[bytes, int] = attrs.field(init=False, factory=dict)

    def hash(self, frame: bytes) -> FrameHash:
        """Return report and hash of a frame by its first `HASH_HEAD` bytes; `NO_HASH` if no type fits."""
        if not self.types:
            return NO_HASH
        report, data = classify(frame, self.types)
        if not report:
            return NO_HASH
        value = self._known.get(data)
        if value is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            value = self._known[data] = toeplitz(self.key, data)
        return report, value
