"""A port in memory: the program itself injects and receives frames."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence

import attrs
import trio

from drivers.contracts.liveness import Liveness
from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, Offloads, PacketQueue, PortState
from drivers.devices.net.vlan import TAGS_ROOM, frame_limit
from drivers.errors import PortGone
from drivers.flow.pump import Serve
from vnet.ports.packet.announce import announcements
from vnet.ports.packet.base import CountingPort, agreed_gso_types, scatter, uses_agreed_offloads

__all__ = ["MemoryPort"]

PLAIN_HEADER = bytes(HEADER_SIZE)
FLOWS_MAX = 1024
"""Maximum number of flows with a remembered queue."""
IP_AT = ETH_HLEN


def flow_of(frame: bytes) -> frozenset[bytes]:
    """Return the two ends of a frame's flow, which are the same in both directions."""
    ethertype, ip = frame[12:14], frame[IP_AT:]
    if ethertype == b"\x08\x00" and len(ip) >= 24 and ip[0] == 0x45:
        return frozenset((ip[12:16] + ip[20:22], ip[16:20] + ip[22:24]))
    if ethertype == b"\x86\xdd" and len(ip) >= 44:
        return frozenset((ip[8:24] + ip[40:42], ip[24:40] + ip[42:44]))
    return frozenset((frame[:6], frame[6:12]))


class MemoryQueue:
    """A further queue of a port; the port itself is the first queue."""

    def __init__(self, port: MemoryPort, index: int) -> None:
        self._port = port
        self._index = index

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        return self._port.recv_from(self._index, segs)

    def pending(self) -> bool:
        return self._port.pending_on(self._index)

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        return self._port.send_on(self._index, head, rest)

    async def wait_readable(self, serve: Serve | None = None, /) -> None:
        await self._port.wait_queue(self._index)

    async def wait_writable(self, serve: Serve | None = None, /) -> None:
        await self._port.wait_writable()


class MemoryPort(CountingPort):
    """A port in memory, for tests, for scapy, and for systems without TUN.

    ``capacity`` bounds each direction, in frames: `inject` into a full queue drops the frame, `send` to a full one
    returns False. A frame above the MTU that needs no segmentation is dropped. Arguments of `start` and the ``set_``
    methods can be read back. The port is promiscuous, because it has no station of its own.
    """

    def __init__(self, caps: Offloads = NO_OFFLOADS, *, capacity: int = 1024, queues: int = 1) -> None:
        super().__init__()
        self.caps = caps
        self.mac: bytes | None = None
        self.offloads = NO_OFFLOADS
        self.mtu: int | None = None
        self.liveness = Liveness()
        self.carrier = False
        self.speed: int | None = None
        self.full_duplex: bool | None = None
        self._capacity = capacity
        self._gone = False
        self._gso_types: frozenset[int] = frozenset()
        self.queues: Sequence[PacketQueue] = (self, *(MemoryQueue(self, i) for i in range(1, queues)))
        self.in_use = queues
        """Number of queues in use."""
        self.peer: bytes | None = None
        self.state = PortState(promisc=True)
        self._rx_queues: list[deque[bytearray]] = [deque() for _ in range(queues)]
        self._inbound = self._rx_queues[0]
        self._flows: dict[frozenset[bytes], int] = {}
        self._outbound: deque[tuple[bytes, bytes, int]] = deque()
        self._waiters = trio.lowlevel.ParkingLot()

    # The program's side

    def inject(self, frame: bytes, header: bytes = PLAIN_HEADER) -> bool:
        """Queue an Ethernet frame with a 12-byte ``header`` for the ring; return False if it is dropped.

        Raises ValueError for a header of another size, or a frame shorter than an Ethernet header.
        """
        if len(header) != HEADER_SIZE or len(frame) < ETH_HLEN:
            raise ValueError(f"a header of {len(header)} bytes before a frame of {len(frame)}")
        flow = flow_of(frame)
        frames = self._rx_queues[self._queue_of(flow) if self.in_use > 1 else 0]
        if len(frames) >= self._capacity:
            self.drop("inject_full")
            return False
        frames.append(bytearray(header[:10] + bytes(2) + frame))
        self._wake()
        return True

    def _queue_of(self, flow: frozenset[bytes]) -> int:
        """Return the queue of a flow, as the kernel does: that of its last sent frame, else a hash."""
        queue = self._flows.get(flow, self.in_use)
        return queue if queue < self.in_use else zlib.crc32(b"".join(sorted(flow))) % self.in_use

    def receive_nowait(self) -> tuple[bytes, bytes]:
        """Return the next (header, frame) from the ring. Raises trio.WouldBlock."""
        return self.receive_tagged()[:2]

    def receive_tagged(self) -> tuple[bytes, bytes, int]:
        """Return (header, frame, queue index). Raises trio.WouldBlock."""
        if not self._outbound:
            raise trio.WouldBlock
        self._wake()
        return self._outbound.popleft()

    async def receive(self) -> tuple[bytes, bytes]:
        """Wait for the next (header, frame) from the ring. Raises PortGone."""
        await trio.lowlevel.checkpoint()
        while not self._outbound:
            self._check()
            await self._waiters.park()
        return self.receive_nowait()

    def want(self, state: PortState) -> None:
        """Set the state of the imaginary interface: the frames that the port wants."""
        self.state = state
        self.mac = state.mac or self.mac
        self._wake()

    def unplug(self) -> None:
        """Remove the port, as a deletion of its interface does: every later use raises PortGone."""
        self._gone = True
        self._wake()

    # The device's side

    @property
    def live(self) -> bool:
        return self.liveness.live

    @property
    def lost(self) -> str:
        return "the memory port was unplugged" if self._gone else ""

    async def start(self, *, mac: bytes | None, offloads: Offloads, mtu: int | None) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self.offloads = offloads
        self._gso_types = agreed_gso_types(offloads)
        self.mac = self.mac if mac is None else mac
        self.mtu = self.mtu if mtu is None else mtu
        self.liveness.set(True)
        self._wake()

    def stop(self) -> None:
        self.liveness.set(False)
        self.carrier = False

    def set_carrier(self, up: bool) -> None:
        self.carrier = up

    def set_link_mode(self, speed: int | None, full_duplex: bool | None) -> None:
        self.speed, self.full_duplex = speed, full_duplex

    def set_queues(self, count: int) -> None:
        self._check()
        for frames in self._rx_queues[count:]:
            self.drop("stopped", len(frames))
            frames.clear()
        self.in_use = count

    def set_offloads(self, offloads: Offloads) -> None:
        self._check()
        self.offloads = offloads
        self._gso_types = agreed_gso_types(offloads)

    def set_mac(self, mac: bytes) -> None:
        self._check()
        self.mac = mac
        if self.state.mac is not None:
            self.state = attrs.evolve(self.state, mac=mac)

    def set_peer(self, mac: bytes) -> None:
        self.peer = mac

    async def announce(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.mac is not None:
            for frame in announcements(self.mac, ()):
                self.inject(frame)

    async def wait_state(self, known: PortState) -> PortState:
        await trio.lowlevel.checkpoint()
        while self.state == known:
            await self._waiters.park()
        return self.state

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        return self.recv_from(0, segs)

    def recv_from(self, index: int, segs: Sequence[memoryview]) -> int:
        """`recv_into` of one queue."""
        self._check()
        frames = self._rx_queues[index]
        while self.liveness.live and frames:
            frame = frames.popleft()
            if not uses_agreed_offloads(frame, self._gso_types):
                self.drop("offload")
            elif not frame[1] and self.mtu is not None and len(frame) > self.mtu and self._beyond_mtu(frame, self.mtu):
                self.drop("too_long")
            elif scatter(segs, frame):
                self.rx_packets += 1
                self.rx_bytes += len(frame) - HEADER_SIZE
                return len(frame)
            else:
                self.drop("too_long")
        return 0

    def _beyond_mtu(self, frame: bytearray, mtu: int) -> bool:
        start = bytes(frame[HEADER_SIZE : HEADER_SIZE + ETH_HLEN + TAGS_ROOM])
        return len(frame) - HEADER_SIZE > frame_limit(mtu, start)

    def pending(self) -> bool:
        return self.pending_on(0)

    def pending_on(self, index: int) -> bool:
        """`pending` of one queue."""
        self._check()
        return self.liveness.live and bool(self._rx_queues[index])

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        return self.send_on(0, head, rest)

    def send_on(self, index: int, head: bytes, rest: Sequence[memoryview]) -> bool:
        """`send` to one queue."""
        self._check()
        if len(self._outbound) >= self._capacity:
            return False
        frame = b"".join((head[HEADER_SIZE:], *rest))
        self._outbound.append((head[:HEADER_SIZE], frame, index))
        if len(self._rx_queues) > 1:
            if len(self._flows) >= FLOWS_MAX:
                self._flows.clear()
            self._flows[flow_of(frame)] = index
        self.tx_packets += 1
        self.tx_bytes += len(frame)
        self._wake()
        return True

    async def wait_readable(self, serve: Serve | None = None, /) -> None:
        await self.wait_queue(0)

    async def wait_queue(self, index: int) -> None:
        """`wait_readable` of one queue."""
        await trio.lowlevel.checkpoint()
        self._check()
        while not (self.liveness.live and self._rx_queues[index]):
            await self._waiters.park()
            self._check()

    async def wait_writable(self, serve: Serve | None = None, /) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        while len(self._outbound) >= self._capacity:
            await self._waiters.park()
            self._check()

    def _check(self) -> None:
        if self._gone:
            raise PortGone(self.lost)

    def _wake(self) -> None:
        # All waiters wake and check again after any change: waiting is not the hot path.
        if self._waiters:
            self._waiters.unpark_all()
