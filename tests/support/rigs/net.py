"""Frames and headers of network devices."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import attrs
import trio
import trio.testing
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from drivers.contracts.ports import HEADER_SIZE
from drivers.devices.net.layout import NetFeature
from rings.layout import WRITE
from rings.testing import Desc
from vnet.ports.packet.memory import MemoryPort
from vnet.testing import (
    HostileDriver,
    NetPair,
    Options,
    bounded,
)

SMALL = Options(queue_size=16)
F = NetFeature
NEEDS_CSUM = 1
NONE, TCPV4, TCPV6, UDP_L4 = 0, 1, 4, 5
PLAIN = bytes(HEADER_SIZE)
OUT, IN = "driver to device", "device to driver"


def virtio_net_hdr(
    flags: int = 0, gso: int = 0, hdr_len: int = 0, gso_size: int = 0, start: int = 0, offset: int = 0, count: int = 0
) -> bytes:
    return struct.pack("<BBHHHHH", flags, gso, hdr_len, gso_size, start, offset, count)


def ends(pair: NetPair, direction: str) -> tuple[MemoryPort, MemoryPort]:
    ports = pair.driver_port, pair.device_port
    return ports if direction == OUT else ports[::-1]


async def cross(pair: NetPair, direction: str, frame: bytes, header: bytes = PLAIN) -> tuple[bytes, bytes]:
    """Send one frame and take what comes out at the other end. Raises AssertionError if none does.

    What a header says of receive buffers means nothing to a port, and is not compared.
    """
    source, sink = ends(pair, direction)
    assert source.inject(frame, header)
    with bounded():
        got, frame = await sink.receive()
    return got[:10] + bytes(2), frame


ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="198.18.0.1", dst="198.18.0.2")
V6 = IPv6(src="2001:2::1", dst="2001:2::2")
BODY = random.Random(7).randbytes(3000)


def frames() -> Iterator[tuple[str, Packet]]:
    yield "arp", ETHER / ARP(psrc="198.18.0.1", pdst="198.18.0.2")
    yield "ping", ETHER / V4 / ICMP() / Raw(BODY[:56])
    yield "ping6", ETHER / V6 / ICMPv6EchoRequest(data=BODY[:56])
    yield "udp", ETHER / V4 / UDP(sport=1, dport=2) / Raw(BODY[:1000])
    yield "udp without checksum", ETHER / V4 / UDP(sport=1, dport=2, chksum=0) / Raw(BODY[:11])
    yield "udp with a wrong checksum", ETHER / V4 / UDP(sport=1, dport=2, chksum=0xBAD) / Raw(BODY[:11])
    yield "tcp", ETHER / V4 / TCP(sport=1, dport=2, flags="PA") / Raw(BODY[:1460])
    yield "tcp6", ETHER / V6 / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1440), ("WScale", 7)])
    yield "ip options", ETHER / IP(dst="198.18.0.2", options=[IPOption_NOP()] * 8) / UDP() / Raw(BODY[:9])
    yield "vlan", ETHER / Dot1Q(vlan=5, prio=3) / V4 / UDP() / Raw(BODY[:1472])
    yield "two vlans", ETHER / Dot1AD(vlan=9) / Dot1Q(vlan=5) / V6 / UDP() / Raw(BODY[:64])
    yield "broadcast", Ether(dst="ff:ff:ff:ff:ff:ff") / V4 / UDP()
    yield "bare Ethernet header", Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88B5)
    yield "802.3 length", ETHER / Raw(BODY[:40])
    yield "odd length", ETHER / Raw(BODY[:1])
    yield "garbage", Ether(BODY[:777])
    yield "IPv4 header that lies", ETHER / IP(ihl=15, len=9, version=7, chksum=1) / Raw(BODY[:30])
    for i, piece in enumerate(fragment(V4 / ICMP() / Raw(BODY), 1480)):
        yield f"fragment {i}", ETHER / piece
    for i, piece in enumerate(fragment6(V6 / IPv6ExtHdrFragment() / UDP() / Raw(BODY), 1280)):
        yield f"fragment6 {i}", ETHER / piece


FRAMES = dict(frames())


@attrs.frozen
class Unfinished:
    """A packet that leaves work undone, and its header."""

    packet: Packet
    l4: type[Packet]
    gso: int = NONE
    mss: int = 0
    features: tuple[tuple[NetFeature, ...], tuple[NetFeature, ...]] = ((F.CSUM,), (F.GUEST_CSUM,))
    """Features to negotiate: towards the device, towards the driver."""

    def emit(self) -> tuple[bytes, bytes]:
        """Header, and a frame whose checksum field holds the sum of the pseudo-header."""
        packet = self.packet.copy()
        layer = packet[self.l4]
        start = len(packet) - len(layer)
        offset = 16 if self.l4 is TCP else 6
        size = len(layer)
        layer.chksum = 0
        frame = bytearray(bytes(packet))
        addresses = frame[start - 8 : start] if packet.haslayer(IP) else frame[start - 32 : start]
        total = sum(struct.unpack(f">{len(addresses) // 2}H", addresses)) + (6 if self.l4 is TCP else 17) + size
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        frame[start + offset : start + offset + 2] = total.to_bytes(2, "big")
        header_end = start + (len(layer) - len(layer.payload))
        hdr_len = header_end if self.gso else 0
        return virtio_net_hdr(NEEDS_CSUM, self.gso, hdr_len, self.mss, start, offset), bytes(frame)


BIG = random.Random(8).randbytes(60000)
PARTIAL = {
    "udp": Unfinished(ETHER / V4 / UDP(sport=1, dport=2) / Raw(BODY[:1000]), UDP),
    "tcp6": Unfinished(ETHER / V6 / TCP(sport=1, dport=2, flags="A") / Raw(BODY[:999]), TCP),
    "vlan": Unfinished(ETHER / Dot1Q(vlan=5) / V4 / TCP(flags="A") / Raw(BODY[:100]), TCP),
}


async def start(
    driver: HostileDriver[NetPair], features: int | None = None, size: int = 2000, count: int = 8
) -> list[int]:
    """Bring it up with ``count`` receive buffers of ``size`` bytes; their addresses."""
    await driver.start(features)
    addrs = [driver.put(b"\xee" * size) for _ in range(count)]
    for head, addr in enumerate(addrs):
        driver.rings[0].write(head, Desc(addr, size, WRITE))
    driver.rings[0].offer(*range(count))
    driver.kick(0)
    await trio.testing.wait_all_tasks_blocked()
    return [int(addr) for addr in addrs]
