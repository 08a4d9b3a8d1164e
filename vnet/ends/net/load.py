"""The loads of a network device with ports in memory: echoes, and a byte stream that is sent again until it arrives."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import attrs
import trio

from drivers.contracts.ports import ETH_HLEN
from drivers.devices.net.header import NEEDS_CSUM, GsoType
from drivers.errors import PortGone
from vnet.ends.load import Load, Loads, Streams
from vnet.ends.net.end import NetEnd, memory_port
from vnet.ends.net.exercise import ETHER
from vnet.ends.net.spec import NetSpec
from vnet.ends.running import RunningDevice
from vnet.ports.packet.memory import PLAIN_HEADER, MemoryPort

__all__ = ["LOADS"]

PING_PATIENCE = 1.0
"""Seconds after which an echo that did not return counts as lost."""
PINGS = 4
"""Most echoes of a round."""
WINDOW = 16
"""Segments in flight."""
TIMEOUTS = (0.2, 0.4, 0.8, 1.6)
"""Seconds without progress until segments are sent again, at the first repetition and at the next ones."""
STREAM = 48 << 10
"""Most bytes of a stream in a round."""
LARGE = 16 << 10
"""Bytes of a segment that the port may cut."""

ECHO, REPLY = b"\0", b"\1"
"""First byte of the payload of an echo and of its answer."""
NUMBER = slice(1, 9)
"""Bytes of a payload with the number of an echo."""
IPV4 = b"\x08\0"
"""Ethertype of IPv4."""
IP_SIZE, TCP_SIZE = 20, 20
"""Bytes of the headers, without options."""
ACKED, PUSHED = 0x10, 0x18
"""TCP flags of a segment without data, and of one with data."""
HALF = 1 << 31
"""Half of the sequence numbers of TCP."""
CHECKSUM_AT = 16
"""Offset of the checksum in a TCP header."""
PORT = 5000
"""TCP port of the first direction of a stream."""
GSO = struct.Struct("<BBHHHHH")
"""virtio_net_hdr (VIRTIO 1.4 section 5.1.9)."""


@attrs.define(eq=False)
class _Side:
    """One end of the device: its port, its IPv4 address, and what takes the frames that arrive, by their ethertype."""

    port: MemoryPort
    address: bytes
    takers: dict[bytes, Callable[[memoryview], None]] = attrs.field(factory=dict)

    def send(self, other: _Side, ethertype: bytes, payload: bytes, header: bytes = PLAIN_HEADER) -> None:
        """Send a packet to the ``other`` side. A port without room drops it."""
        # The destination passes every filter that the driver may have set.
        self.port.inject((other.port.mac or ETHER[:6]) + ETHER[6:12] + ethertype + payload, header)

    async def receive(self) -> None:
        """Hand arriving packets to their takers, until cancelled or the port is gone."""
        try:
            while True:
                _, frame = await self.port.receive()
                if (take := self.takers.get(frame[12:ETH_HLEN])) is not None:
                    take(memoryview(frame)[ETH_HLEN:])
        except PortGone:
            pass


class PingLoad(Load):
    """Echoes from each end to the other one and back."""

    def __init__(self, device: str, sides: tuple[_Side, _Side], mtu: int, rng: Random) -> None:
        super().__init__("ping", device)
        self._sides = sides
        self._room = mtu - NUMBER.stop
        self._rng = rng
        self._serial = 0
        self._sent: dict[int, bytes] = {}
        """Content of the echoes of this round, by number."""
        self._waiting: set[int] = set()
        """Numbers of those that did not return yet."""
        self._seen: set[tuple[bytes, int]] = set()
        """Kind and number of what arrived in this round."""
        self._returned = trio.Event()
        for number, side in enumerate(sides):
            side.takers[ETHER[12:]] = partial(self._take, number)

    async def round(self) -> None:
        self._sent, self._waiting, self._seen, self._returned = {}, set(), set(), trio.Event()
        for _ in range(self._rng.randint(1, PINGS)):
            way, data = self._rng.randrange(2), self._rng.randbytes(self._rng.randint(50, self._room))
            number = self._serial = self._serial + 1
            self._sent[number] = data
            self._waiting.add(number)
            self._send(way, ECHO, number, data)
        with trio.move_on_after(PING_PATIENCE):
            await self._returned.wait()
        self.figures.lost += len(self._waiting)
        self.figures.rounds += 1

    async def finish(self) -> None:
        await self.round_without_loss("echoes")

    def _send(self, way: int, kind: bytes, number: int, data: bytes) -> None:
        self._sides[way].send(self._sides[1 - way], ETHER[12:], kind + number.to_bytes(8, "big") + data)

    def _take(self, way: int, payload: memoryview) -> None:
        """Take an echo or an answer that arrived at the side ``way``."""
        kind, number, data = bytes(payload[:1]), int.from_bytes(payload[NUMBER], "big"), payload[NUMBER.stop :]
        if not self._compare(kind, number, data):
            return
        if kind == ECHO:
            self._send(way, REPLY, number, bytes(data))
        else:
            self._waiting.discard(number)
            if not self._waiting:
                self._returned.set()

    def _compare(self, kind: bytes, number: int, data: memoryview) -> bool:
        """Return whether a frame belongs to this round. Raises LoadError if it has other data, or arrives twice."""
        if number not in self._sent:
            return False
        if (kind, number) in self._seen:
            raise self.error(f"{'echo' if kind == ECHO else 'reply'} {number} arrived twice")
        self._seen.add((kind, number))
        if data != self._sent[number]:
            raise self.error(f"echo {number} of {len(self._sent[number])} bytes arrived with other data")
        self.figures.bytes += len(data)
        return True


class _Way:
    """One direction of a stream."""

    def __init__(self, source: _Side, sink: _Side, number: int, rng: Random) -> None:
        self.source, self.sink, self.number, self.rng = source, sink, number, rng
        self.data = b""
        """Bytes of this round, from offset ``start`` of the stream."""
        self.start = 0
        self.acknowledged = 0
        self.received = 0
        """Offset of the next byte that the receiver expects."""
        self.progress = trio.Event()

    @property
    def end(self) -> int:
        """Offset behind the bytes of this round."""
        return self.start + len(self.data)

    def offset(self, sequence: int) -> int:
        """Return the offset in the stream that a 32-bit sequence number means: the one nearest to the round's start."""
        return self.start + ((sequence - self.start + HALF) % (2 * HALF)) - HALF


class TcpLoad(Load):
    """A byte stream in each direction: a window, acknowledgements, and repetitions from the first byte that is missing.

    Segments have real headers, so that a port or a mediator may cut them. Each byte of each segment that arrives is
    checked, also of repetitions.
    """

    def __init__(self, device: str, sides: tuple[_Side, _Side], mtu: int, streams: Streams) -> None:
        super().__init__("tcp", device)
        self._segment = mtu - IP_SIZE - TCP_SIZE
        ways = enumerate((sides, sides[::-1]))
        self._ways = [_Way(source, sink, number, streams(f"tcp {number}")) for number, (source, sink) in ways]
        for side in sides:
            side.takers[IPV4] = self._take

    async def round(self) -> None:
        async with trio.open_nursery() as nursery:
            for way in self._ways:
                way.start, way.data = way.end, way.rng.randbytes(way.rng.randint(1, STREAM))
                nursery.start_soon(self._send, way)
        self.figures.rounds += 1

    async def finish(self) -> None:
        await self.round_without_loss("segments")

    async def _send(self, way: _Way) -> None:
        following, attempt = way.acknowledged, 0
        large = way.rng.random() < 0.5
        while way.acknowledged < way.end:
            following = max(following, way.acknowledged)
            # What the port may cut depends on what was negotiated last.
            size = LARGE if large and not attempt and way.source.port.offloads.tso4 else self._segment
            while following < way.end and following - way.acknowledged < WINDOW * self._segment:
                piece = way.data[following - way.start :][:size]
                header = _to_cut(self._segment) if len(piece) > self._segment else PLAIN_HEADER
                self._put(way.source, way.sink, way.number, following, piece, header)
                following += len(piece)
            before, way.progress = way.acknowledged, trio.Event()
            with trio.move_on_after(TIMEOUTS[min(attempt, len(TIMEOUTS) - 1)]):
                await way.progress.wait()
            if way.acknowledged > before:
                attempt = 0
            else:
                following, attempt = way.acknowledged, attempt + 1
                self.figures.retries += 1

    def _put(self, source: _Side, sink: _Side, number: int, offset: int, data: bytes, header: bytes) -> None:
        """Send data at an offset of the stream ``number``, or without data the acknowledgement of all bytes before."""
        size = TCP_SIZE + len(data)
        addresses = source.address + sink.address
        ip = struct.pack(">BBHHHBBH", 0x45, 0, IP_SIZE + size, 0, 0, 64, 6, 0) + addresses
        ip = ip[:10] + (~_sum(ip) & 0xFFFF).to_bytes(2, "big") + ip[12:]
        flags = PUSHED if data else ACKED
        # The checksum is that of the pseudo header, as before an interface completes it.
        pseudo = _sum(addresses + struct.pack(">HH", 6, size))
        sequence, port = offset % (2 * HALF), PORT + number
        tcp = struct.pack(">HHIIBBHHH", port, port, sequence, sequence, TCP_SIZE << 2, flags, 0xFFFF, pseudo, 0)
        source.send(sink, IPV4, ip + tcp + data, header)

    def _take(self, packet: memoryview) -> None:
        size = int.from_bytes(packet[2:4], "big")
        port, _, sequence = struct.unpack_from(">HHI", packet, IP_SIZE)
        way, data = self._ways[port - PORT], packet[IP_SIZE + TCP_SIZE : size]
        if not data:
            self._acknowledge(way, way.offset(sequence))
        else:
            self._take_data(way, way.offset(sequence), data)

    def _take_data(self, way: _Way, offset: int, data: memoryview) -> None:
        """Take a segment at the receiver, and acknowledge all bytes that have arrived without a gap."""
        if offset + len(data) > way.end:
            raise self.error(f"bytes up to {offset + len(data)} of the stream arrived, but only {way.end} were sent")
        if offset >= way.start and data != way.data[offset - way.start :][: len(data)]:
            raise self.error(f"{len(data)} bytes at offset {offset} of the stream arrived with other data")
        self.figures.bytes += len(data)
        if offset <= way.received < offset + len(data):
            way.received = offset + len(data)
        self._put(way.sink, way.source, way.number, way.received, b"", PLAIN_HEADER)

    def _acknowledge(self, way: _Way, offset: int) -> None:
        if offset > way.received:
            raise self.error(f"an acknowledgement of {offset} bytes arrived; the receiver has {way.received}")
        if offset > way.acknowledged:
            way.acknowledged = offset
            way.progress.set()


def _sum(data: bytes) -> int:
    """Return the ones' complement sum of 16-bit words (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    return (total - 1) % 0xFFFF + 1


def _to_cut(size: int) -> bytes:
    """Return the header of a TCP packet over IPv4 that is to be cut into segments of ``size`` bytes of data."""
    ip_end = ETH_HLEN + IP_SIZE
    return GSO.pack(NEEDS_CSUM, GsoType.TCPV4, ip_end + TCP_SIZE, size, ip_end, CHECKSUM_AT, 0)


@asynccontextmanager
async def open_loads(
    device: RunningDevice[NetSpec, tuple[NetEnd, NetEnd]], names: Sequence[str], streams: Streams
) -> AsyncIterator[Sequence[Load]]:
    sides = _Side(memory_port(device.ends[0]), b"\xc6\x12\0\1"), _Side(memory_port(device.ends[1]), b"\xc6\x12\0\2")
    loads: list[Load] = []
    if "ping" in names:
        loads.append(PingLoad(device.name, sides, device.spec.mtu, streams("ping")))
    if "tcp" in names:
        loads.append(TcpLoad(device.name, sides, device.spec.mtu, streams))
    async with trio.open_nursery() as nursery:
        for side in sides:
            nursery.start_soon(side.receive)
        yield loads
        nursery.cancel_scope.cancel()


LOADS = Loads(
    ("ping", "tcp"),
    open_loads,
    'driver = { kind = "memory" }\ndevice = { kind = "memory" }',
)
