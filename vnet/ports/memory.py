"""A port without a device: frames are put in and taken out by the program itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

from drivers.errors import PortGone
from drivers.ports import ETH_HLEN, HEADER_SIZE, NO_OFFLOADS, Offloads
from vnet.ports.base import CountingPort, agreed, agreed_gso_types, scatter

__all__ = ["MemoryPort"]

PLAIN_HEADER = bytes(HEADER_SIZE)
VLAN_HLEN = 4


class MemoryPort(CountingPort):
    """Frames in memory, for tests, for scapy, and where there is no TUN.

    ``capacity`` bounds each direction, in frames: `inject` into a full queue counts a drop, `send` into a full one
    would block; a frame beyond the MTU that needs no segmentation is dropped. What was given to `start` and
    `set_carrier` can be read back.
    """

    def __init__(self, caps: Offloads = NO_OFFLOADS, *, capacity: int = 1024) -> None:
        super().__init__()
        self.caps = caps
        self.mac: bytes | None = None
        self.offloads = NO_OFFLOADS
        self.mtu: int | None = None
        self.live = False
        self.carrier = False
        self._capacity = capacity
        self._gone = False
        self._gso_types: frozenset[int] = frozenset()
        self._inbound: deque[bytearray] = deque()
        self._outbound: deque[tuple[bytes, bytes]] = deque()
        self._changed = trio.Event()

    # The program's side

    def inject(self, frame: bytes, header: bytes = PLAIN_HEADER) -> bool:
        """Offer one Ethernet frame behind its ``header`` (12 bytes) to the ring; False where it was dropped.

        Raises ValueError for a header of another size, or for no whole Ethernet header.
        """
        if len(header) != HEADER_SIZE or len(frame) < ETH_HLEN:
            raise ValueError(f"a header of {len(header)} bytes before a frame of {len(frame)}")
        if len(self._inbound) >= self._capacity:
            self.drop("inject_full")
            return False
        self._inbound.append(bytearray(header[:10] + bytes(2) + frame))
        self._wake()
        return True

    def receive_nowait(self) -> tuple[bytes, bytes]:
        """The next (header, frame) that came out of the ring. Raises trio.WouldBlock."""
        if not self._outbound:
            raise trio.WouldBlock
        self._wake()
        return self._outbound.popleft()

    async def receive(self) -> tuple[bytes, bytes]:
        """The next (header, frame) that came out of the ring, waiting for it. Raises PortGone."""
        await trio.lowlevel.checkpoint()
        while not self._outbound:
            self._check()
            await self._changed.wait()
        return self.receive_nowait()

    def unplug(self) -> None:
        """Take the port away, as when an interface is deleted: every use of it raises PortGone from now on."""
        self._gone = True
        self._wake()

    # The device's side

    source = None

    async def start(self, *, mac: bytes | None, offloads: Offloads, mtu: int | None) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self.offloads = offloads
        self._gso_types = agreed_gso_types(offloads)
        self.mac = self.mac if mac is None else mac
        self.mtu = self.mtu if mtu is None else mtu
        self.live = True
        self._wake()

    def stop(self) -> None:
        self.live = False
        self.carrier = False

    def set_carrier(self, up: bool) -> None:
        self.carrier = up

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        self._check()
        while self.live and self._inbound:
            frame = self._inbound.popleft()
            if not agreed(frame, self._gso_types):
                self.drop("offload")
            elif not frame[1] and self.mtu is not None and len(frame) > self.mtu + HEADER_SIZE + ETH_HLEN + VLAN_HLEN:
                self.drop("too_long")
            elif scatter(segs, frame):
                self.rx_packets += 1
                self.rx_bytes += len(frame) - HEADER_SIZE
                return len(frame)
            else:
                self.drop("too_long")
        return 0

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        self._check()
        if len(self._outbound) >= self._capacity:
            return False
        frame = b"".join((head[HEADER_SIZE:], *rest))
        self._outbound.append((head[:HEADER_SIZE], frame))
        self.tx_packets += 1
        self.tx_bytes += len(frame)
        self._wake()
        return True

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        while not (self.live and self._inbound):
            await self._changed.wait()
            self._check()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        while len(self._outbound) >= self._capacity:
            await self._changed.wait()
            self._check()

    def _check(self) -> None:
        if self._gone:
            raise PortGone("the memory port was unplugged")

    def _wake(self) -> None:
        # One event for everything that can change: waiters look again, and waiting is not the hot path.
        if self._changed.statistics().tasks_waiting:
            self._changed.set()
            self._changed = trio.Event()
