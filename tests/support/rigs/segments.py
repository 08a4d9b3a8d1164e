"""Frames as senders with and without offloads make them, built by scapy, for tests of software offloads."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import attrs
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from drivers.contracts.ports import HEADER_SIZE, Offloads
from drivers.devices.net.header import NEEDS_CSUM, GsoType
from drivers.devices.net.software import finish

CSUM_ONLY = Offloads(csum=True)
PLAIN = bytes(HEADER_SIZE)
ETHER = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
PATTERN = random.Random(1).randbytes(70_000)
SEQ = 2**32 - 3000
"""So that it wraps within a frame."""
IP_ID = 0xFFFE
FIN, PSH, ACK, CWR = "F", "P", "A", "C"


@attrs.frozen
class Case:
    """One large frame: what is in front of its payload, and how it is to be cut."""

    tcp: bool = True
    v6: bool = False
    tags: tuple[int, ...] = ()
    """The EtherType of each VLAN tag."""
    extensions: tuple[int, ...] = ()
    """Bytes of options in each IPv6 extension header."""
    ip_options: bytes = b""
    tcp_options: bool = False
    flags: str = ACK
    size: int = 5001
    mss: int = 1400

    @property
    def name(self) -> str:
        return "-".join(
            str(value) for field, value in attrs.asdict(self).items() if value != attrs.fields_dict(Case)[field].default
        )

    @property
    def kind(self) -> GsoType:
        return (GsoType.TCPV6 if self.v6 else GsoType.TCPV4) if self.tcp else GsoType.UDP_L4

    @property
    def start(self) -> int:
        """Where the transport header starts."""
        return 14 + 4 * len(self.tags) + (40 + self.extended if self.v6 else 20 + len(self.ip_options))

    @property
    def extended(self) -> int:
        """Bytes of extension headers."""
        return sum(4 + size for size in self.extensions)

    @property
    def field(self) -> int:
        """Where in it the checksum is."""
        return 16 if self.tcp else 6

    @property
    def end(self) -> int:
        return self.start + (20 + (12 if self.tcp_options else 0) if self.tcp else 8)

    def packet(self, at: int = 0, size: int | None = None, index: int = 0, flags: str | None = None) -> Packet:
        """Bytes of payload from ``at`` on, in the frame that a sender without any offload makes of them."""
        size = self.size if size is None else size
        packet = ETHER.copy()
        for ethertype in self.tags:
            packet.lastlayer().type = ethertype
            packet = packet / Dot1Q(vlan=5)
        if self.v6:
            packet = packet / IPv6(src="2001:2::1", dst="2001:2::2")
            for length in self.extensions:
                packet = packet / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(length))])
        else:
            ip = IP(src="198.18.0.1", dst="198.18.0.2", id=IP_ID + index & 0xFFFF, options=self.ip_options)
            packet = packet / ip
        if self.tcp:
            options = [("NOP", None), ("NOP", None), ("Timestamp", (7, 8))] if self.tcp_options else []
            seq = SEQ + at & 0xFFFF_FFFF
            layer: Packet = TCP(
                sport=1, dport=2, seq=seq, flags=self.flags if flags is None else flags, options=options
            )
        else:
            layer = UDP(sport=1, dport=2)
        return packet / layer / PATTERN[at : at + size]

    def segments(self) -> list[bytes]:
        """The segments as scapy builds them."""
        cuts = range(0, self.size, self.mss)
        made = []
        for index, at in enumerate(cuts):
            flags = "".join(
                flag
                for flag in self.flags
                if not (flag in (FIN, PSH) and index < len(cuts) - 1) and not (flag == CWR and index)
            )
            made.append(bytes(self.packet(at, min(self.mss, self.size - at), index, flags)))
        return made

    def frame(self) -> bytes:
        """The large frame as a sender with offloads leaves it: no checksums, and lengths that are ignored."""
        return unsummed(bytes(self.packet()), self.start + self.field)

    def header(self, gso: bool = True, mss: int | None = None) -> bytes:
        large = (self.kind, self.end, mss or self.mss) if gso else (0, 0, 0)
        return struct.pack("<BBHHHHH", NEEDS_CSUM, *large, self.start, self.field, 0)


def unsummed(frame: bytes, at: int, value: int = 0) -> bytes:
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]


def views(frame: bytes, *sizes: int) -> list[memoryview]:
    """Pieces of these sizes, then the rest."""
    whole, pieces, at = memoryview(frame), [], 0
    for size in sizes:
        pieces.append(whole[at : at + size])
        at += size
    return [*pieces, whole[at:]]


def finished(header: bytes, frame: Sequence[memoryview], able: Offloads) -> list[tuple[bytes, bytes]]:
    return [
        (head[:HEADER_SIZE], head[HEADER_SIZE:] + b"".join(payload)) for head, payload in finish(header, frame, able)
    ]


def pseudo(frame: bytes, case: Case) -> bytes:
    """``frame`` with the pseudo header's sum where its checksum was, by a plain loop."""
    addresses = frame[case.start - 8 - len(case.ip_options) : case.start - len(case.ip_options)]
    if case.v6:
        addresses = frame[case.start - case.extended - 32 : case.start - case.extended]
    data = addresses + struct.pack(">HH", 6 if case.tcp else 17, len(frame) - case.start)
    return unsummed(frame, case.start + case.field, loop_sum(data))


def loop_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    value = 0
    for at in range(0, len(data), 2):
        value += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        value = (value & 0xFFFF) + (value >> 16)
    return value


Q, AD, OLD = 0x8100, 0x88A8, 0x9100
CASES = [
    *(Case(tcp=tcp, v6=v6, tags=tags) for tcp in (True, False) for v6 in (False, True) for tags in ((), (Q,), (Q, Q))),
    *(Case(v6=v6, tags=tags) for v6 in (False, True) for tags in ((AD,), (AD, Q), (OLD, Q), (Q,) * 5)),
    *(Case(tcp=tcp, v6=True, extensions=sizes) for tcp in (True, False) for sizes in ((4,), (252,), (4, 12, 244, 252))),
    Case(v6=True, tags=(AD, Q), extensions=(196,), tcp_options=True),
    *(Case(tcp=tcp, size=size, mss=mss) for tcp in (True, False) for size, mss in ((1, 1), (1400, 1400), (1401, 1400))),
    *(Case(v6=v6, size=4097, mss=513) for v6 in (False, True)),
    Case(size=65_000, mss=1448, tcp_options=True),
    Case(ip_options=bytes.fromhex("94040000")),
    Case(tcp=False, ip_options=bytes.fromhex("9404000001010100")),
    Case(tcp_options=True, v6=True, tags=(Q,)),
    *(Case(flags=flags, v6=v6) for flags in ("FPA", "CA", "FPCEA", "PA") for v6 in (False, True)),
    Case(flags="FPCA", size=100),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name or "plain")
PIECES = pytest.mark.parametrize("sizes", [(), (3, 97), (14, 20, 0, 1, 1001)], ids=["one", "odd", "many"])
