"""Receive-side scaling in software: frames of all queues of a port are hashed, and wait for their receive queue.

Only a device with RSS or HASH_REPORT has it. A reader per queue of the port takes every frame at once, as a network
card does, so that a driver that gives one receive queue no buffers does not hold up the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from drivers.contracts.ports import HEADER_SIZE, PacketQueue
from drivers.devices.net.flow import BUDGET
from drivers.devices.net.hashing import HASH_HEAD, HASH_REPORT, Hasher
from drivers.devices.net.steering import HashConfig, RssConfig
from drivers.flow.pump import Serve, Signal
from rings.chain import copy_in, copy_out, total

__all__ = ["SteeredQueue", "Steering"]

WAITING, WAITING_BYTES = 1024, 4 << 20
"""Maximum frames, and bytes of them, that wait for one receive queue; a device drops what is beyond either."""


class SteeredQueue:
    """A queue of a port, whose received frames are those of one receive queue. Implements `PacketQueue`."""

    def __init__(self, port: PacketQueue, drop: Callable[..., None]) -> None:
        """``drop`` counts a dropped frame by its cause."""
        self.drop = drop
        self._port = port
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._signal = Signal()

    def put(self, frame: bytes) -> None:
        """Append a frame with its header; it is dropped if too many wait."""
        if len(self._frames) >= WAITING or self._size + len(frame) > WAITING_BYTES:
            self.drop("overrun")
            return
        self._frames.append(frame)
        self._size += len(frame)

    def wake(self) -> None:
        """Have the receive queue's flow take what was appended."""
        if self._frames:
            self._signal.set()

    def clear(self, cause: str) -> None:
        """Drop all frames that wait."""
        self.drop(cause, len(self._frames))
        self._frames.clear()
        self._size = 0

    def recv_into(self, segs: Sequence[memoryview], /) -> int:
        room = total(segs)
        while self._frames:
            frame = self._frames.popleft()
            self._size -= len(frame)
            if len(frame) <= room:
                return copy_in(segs, frame)
            self.drop("too_long")
        return 0

    def pending(self) -> bool:
        return bool(self._frames)

    def send(self, head: bytes, rest: Sequence[memoryview], /) -> bool:
        return self._port.send(head, rest)

    async def wait_readable(self, serve: Serve | None = None, /) -> None:
        if self._frames:
            await trio.lowlevel.checkpoint()
        else:
            await self._signal.wait(serve)

    async def wait_writable(self, serve: Serve | None = None, /) -> None:
        await self._port.wait_writable(serve)


class Steering:
    """The queues of a port, whose frames go to receive queues as the driver configured it."""

    def __init__(
        self,
        ports: Sequence[PacketQueue],
        drops: Sequence[Callable[..., None]],
        live: Callable[[int], bool],
        *,
        reports: bool,
    ) -> None:
        """``live``: whether the receive queue of a pair can take frames. ``reports``: whether each frame gets a report
        of its hash behind its header.
        """
        self.reports = reports
        self.queues = [SteeredQueue(port, drop) for port, drop in zip(ports, drops, strict=True)]
        self.rss: RssConfig | None = None
        """Parameters of receive-side scaling; None for automatic steering: by the queue of the port."""
        self._ports = ports
        self._live = live
        self._hasher = Hasher()
        self._used = 1
        self._more = trio.lowlevel.ParkingLot()

    def set_hash(self, config: HashConfig) -> bool:
        """Hash frames by these parameters. Returns False, and changes nothing, for types that the device lacks."""
        if config.valid:
            self._hasher = Hasher(config.types, config.key)
        return config.valid

    @property
    def types(self) -> int:
        """Bitmap of the types of packets that are hashed."""
        return self._hasher.types

    def set_rss(self, config: RssConfig) -> bool:
        """Steer frames by these parameters, from the next one on. Returns False likewise."""
        if not self.set_hash(config.hash):
            return False
        self.rss = config
        return True

    def use(self, count: int) -> None:
        """Read only the first ``count`` queues of the port, and give frames only to so many receive queues."""
        self._used = count
        self._more.unpark_all()
        for queue in self.queues[count:]:
            queue.clear("stopped")

    def clear(self, cause: str) -> None:
        """Drop all frames that wait for a receive queue."""
        for queue in self.queues:
            queue.clear(cause)

    async def read(self, index: int, largest: int) -> None:
        """Steer the frames of one queue of the port until cancelled; ``largest``: bytes of header and frame.

        Raises PortGone.
        """
        port, buffer = self._ports[index], memoryview(bytearray(largest))
        while True:
            while index >= self._used:
                await self._more.park()
            length = 0
            for _ in range(BUDGET):
                length = port.recv_into([buffer])
                if not length:
                    break
                self._steer(index, buffer[:length])
            for queue in self.queues:
                queue.wake()
            if length:
                await trio.lowlevel.checkpoint()
            else:
                await port.wait_readable()

    def _steer(self, index: int, frame: memoryview) -> None:
        report, value = self._hasher.hash(copy_out([frame[HEADER_SIZE:]], HASH_HEAD))
        pair = self._pair_of(index, report, value)
        if not self._live(pair):
            self.queues[pair].drop("queue_reset")  # sections 5.1.9.5.6.2 and 5.1.9.5.7.3
        else:
            data = bytes(frame)
            if self.reports:
                data = data[:HEADER_SIZE] + HASH_REPORT.pack(value, report) + data[HEADER_SIZE:]
            self.queues[pair].put(data)

    def _pair_of(self, index: int, report: int, value: int) -> int:
        """Return the pair that gets a frame of queue ``index`` of the port: one that can take it, if it may be any."""
        if self.rss is not None:
            return self.rss.pair_of(report, value)
        return next((pair for pair in (index, *range(self._used)) if self._live(pair)), index)
