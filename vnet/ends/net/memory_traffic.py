"""Traffic made with scapy on in-memory ports, for machines without TUN or without the right to use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from vnet.ends.net.end import NetEnd, memory_port
from vnet.ends.net.spec import NetSpec
from vnet.ends.running import RunningDevice
from vnet.errors import TrafficError
from vnet.ports.packet.memory import PLAIN_HEADER, MemoryPort
from vnet.traffic.kernel import FlowResult, PingResult, Plan

if TYPE_CHECKING:
    from scapy.packet import Packet

__all__ = ["MemoryTraffic"]

WINDOW = 32
"""Frames in flight in a throughput run."""
PATIENCE = 30.0
"""Seconds until a missing frame counts as lost."""
MSS = 1460
"""Bytes of a TCP segment."""
GSO_HEADER = bytes((1, 1)) + b"".join(v.to_bytes(2, "little") for v in (54, MSS, 34, 16, 0))
"""virtio_net_hdr of a TCP/IPv4 packet for segmentation: NEEDS_CSUM, GSO_TCPV4."""


@attrs.frozen
class _MemoryEnd:
    host: str
    port: MemoryPort
    mac: str
    ipv4: str
    ipv6: str


class MemoryTraffic:
    """Pings and flows like those of ping and iperf3, with scapy's frames; each received frame is compared."""

    def __init__(self, running: RunningDevice[NetSpec, tuple[NetEnd, NetEnd]]) -> None:
        (driver, device), (first, second) = running.hosts, map(memory_port, running.ends)
        self._ends = (
            _MemoryEnd(driver, first, "02:00:00:00:00:01", "198.18.0.1", "2001:2::1"),
            _MemoryEnd(device, second, "02:00:00:00:00:02", "198.18.0.2", "2001:2::2"),
        )

    def pings(self, count: int, sizes: tuple[int, ...]) -> list[Plan]:
        return [
            Plan(
                f"scapy ping {family}, {size} bytes",
                source.host,
                getattr(target, family),
                partial(self._ping, source, target, family, count, size),
            )
            for size in sizes
            for family in ("ipv4", "ipv6")
            for source, target in (self._ends, self._ends[::-1])
        ]

    def flows(self, seconds: float, *, udp: bool) -> list[Plan]:
        return [
            Plan(
                "scapy UDP frames" if udp else "scapy TCP GSO frames",
                source.host,
                target.ipv4,
                partial(self._flow, source, target, seconds, udp),
            )
            for source, target in (self._ends, self._ends[::-1])
        ]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        yield

    async def _ping(self, source: _MemoryEnd, target: _MemoryEnd, family: str, count: int, size: int) -> PingResult:
        exchanges = []  # built before the clock starts: scapy is slower than the stack
        for sequence in range(count):
            request = _echo(source, target, family, sequence, size, reply=False)
            exchanges.append((request, _echo(target, source, family, sequence, size, reply=True)))
            await trio.lowlevel.checkpoint()
        times = []
        for request, reply in exchanges:
            began = trio.current_time()
            if await _cross(source, target, request) and await _cross(target, source, reply):
                times.append(1000 * (trio.current_time() - began))
        if not times:
            return PingResult(count, 0, None, None, None)
        return PingResult(count, len(times), min(times), sum(times) / len(times), max(times))

    async def _flow(self, source: _MemoryEnd, target: _MemoryEnd, seconds: float, udp: bool) -> FlowResult:
        header, frame = _bulk(source, target, udp)
        began = trio.current_time()
        size = arrived = lost = 0
        while trio.current_time() < began + seconds and not lost:
            for _ in range(WINDOW):
                source.port.inject(frame, header)
            frames = await _receive(target.port, WINDOW)
            if any(received != frame for received in frames):
                raise TrafficError("a received frame differs from the frame sent")
            arrived += len(frames)
            lost += WINDOW - len(frames)
            size += sum(map(len, frames))
        took = trio.current_time() - began
        packets = arrived if udp else 0
        return FlowResult(took, size, 8 * size / took, packets, lost if udp else 0, 0, complete=udp or not lost)


async def _cross(source: _MemoryEnd, target: _MemoryEnd, frames: Sequence[bytes]) -> bool:
    """Send ``frames`` from one end; return whether the other end received all of them, unchanged and in order."""
    for frame in frames:
        source.port.inject(frame)
    return await _receive(target.port, len(frames)) == list(frames)


async def _receive(port: MemoryPort, count: int) -> list[bytes]:
    frames: list[bytes] = []
    with trio.move_on_after(PATIENCE):
        while len(frames) < count:
            frames.append((await port.receive())[1])
    return frames


def _echo(source: _MemoryEnd, target: _MemoryEnd, family: str, sequence: int, size: int, *, reply: bool) -> list[bytes]:
    from scapy.layers.inet import ICMP, IP, fragment
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
    from scapy.layers.l2 import Ether

    ether = Ether(src=source.mac, dst=target.mac)
    payload = bytes(at & 0xFF for at in range(size))
    packets: list[Packet]
    if family == "ipv4":
        ip = (
            IP(src=source.ipv4, dst=target.ipv4, id=sequence)
            / ICMP(type=0 if reply else 8, id=1, seq=sequence)
            / payload
        )
        packets = [ether / part for part in fragment(ip, fragsize=1480)]
    else:
        kind = ICMPv6EchoReply if reply else ICMPv6EchoRequest
        echo = kind(id=1, seq=sequence, data=payload)
        base = IPv6(src=source.ipv6, dst=target.ipv6)
        whole = base / echo
        small = len(whole) <= 1500
        packets = [ether / part for part in ([whole] if small else fragment6(base / IPv6ExtHdrFragment() / echo, 1500))]
    return [bytes(packet) for packet in packets]


def _bulk(source: _MemoryEnd, target: _MemoryEnd, udp: bool) -> tuple[bytes, bytes]:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import Ether

    base = Ether(src=source.mac, dst=target.mac) / IP(src=source.ipv4, dst=target.ipv4)
    if udp:
        return PLAIN_HEADER, bytes(base / UDP(sport=5201, dport=5201) / bytes(1400))
    return GSO_HEADER, bytes(base / TCP(sport=5201, dport=5201, flags="A") / bytes(44 * MSS))
