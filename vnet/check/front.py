"""A front end of the checker's own: it brings a device up, keeps its rings, and watches how the device reacts."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import attrs
import trio

from drivers.transports.vhost_user.constants import (
    F_PROTOCOL_FEATURES,
    FrontendRequest,
    ProtocolFeature,
)
from vnet.check.memory import Arena
from vnet.check.packed import PackedRing
from vnet.check.split import Buffer, SplitRing
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.check.wire import BadReply, HungUp, Journal, Wire, emit

__all__ = [
    "EVENT_IDX",
    "INDIRECT_DESC",
    "RING_PACKED",
    "VERSION_1",
    "FrontEnd",
    "Reaction",
    "Vring",
    "pair",
]

R, P = FrontendRequest, ProtocolFeature
INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_PACKED = 28, 29, 32, 34
NAMES = {INDIRECT_DESC: "INDIRECT_DESC", EVENT_IDX: "EVENT_IDX", VERSION_1: "VERSION_1", RING_PACKED: "RING_PACKED"}
NEEDS_RESET, DRIVER_OK = 64, 15
QUIET = 0.4
"""Seconds without a reaction after which a device counts as silent."""
PROTOCOL = sum(
    1 << bit for bit in (P.MQ, P.LOG_SHMFD, P.REPLY_ACK, P.CONFIG, P.INFLIGHT_SHMFD, P.CONFIGURE_MEM_SLOTS, P.STATUS)
)
"""Protocol features that the checker accepts if they are offered."""


def pair(index: int, number: int) -> bytes:
    """Return the body of a message about one ring."""
    return struct.pack("<II", index & 0xFFFF_FFFF, number & 0xFFFF_FFFF)


class Reaction(StrEnum):
    """Reaction of a device to a kick."""

    ANSWERED = "used a buffer"
    CLOSED = "closed the connection"
    ERROR = "reported an error of the queue"
    SILENT = "did nothing"


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


@attrs.define(eq=False)
class Vring:
    """A ring with its eventfds."""

    index: int
    ring: SplitRing | PackedRing
    kick_fd: int = attrs.field(factory=_eventfd)
    call_fd: int = attrs.field(factory=_eventfd)
    err_fd: int = attrs.field(factory=_eventfd)

    def kick(self) -> None:
        """Notify the device. The system call orders the stores to the ring before it."""
        os.eventfd_write(self.kick_fd, 1)

    def calls(self) -> int:
        """Return the device's notifications since the last call."""
        return _drain(self.call_fd)

    def errors(self) -> int:
        """Return the device's error notifications since the last call."""
        return _drain(self.err_fd)

    @property
    def split(self) -> SplitRing:
        assert isinstance(self.ring, SplitRing)
        return self.ring

    @property
    def as_packed(self) -> PackedRing:
        assert isinstance(self.ring, PackedRing)
        return self.ring

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)


def _drain(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


class FrontEnd(Wire):
    """A connection with memory and rings."""

    def __init__(self, connected: socket.socket, journal: Journal, patience: float) -> None:
        super().__init__(connected, journal, patience)
        self.arena = Arena()
        self.offered = self.features = self.protocol = 0
        self.names: Mapping[int, str] = NAMES
        """Names of feature bits."""
        self.rings: dict[int, Vring] = {}

    # Bring-up

    async def negotiate(self, features: Iterable[int] = ()) -> None:
        """Own the device with VERSION_1 and ``features``, and the protocol features of `PROTOCOL`.

        Raises Skipped if one is not offered, PeerError.
        """
        self.offered = await self.ask_number(R.GET_FEATURES)
        wanted = 1 << VERSION_1
        for bit in features:
            if not self.offered >> bit & 1:
                raise Skipped(f"{self.names.get(bit, f'feature bit {bit}')} is not offered")
            wanted |= 1 << bit
        if self.offered >> F_PROTOCOL_FEATURES & 1:
            self.protocol = await self.ask_number(R.GET_PROTOCOL_FEATURES) & PROTOCOL
            await self.send(emit(R.SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol)))
            self.acks = self.has(P.REPLY_ACK)
            wanted |= 1 << F_PROTOCOL_FEATURES
        await self.must(R.SET_OWNER)
        self.features = wanted

    def has(self, feature: ProtocolFeature) -> bool:
        """Return whether a protocol feature is negotiated."""
        return bool(self.protocol >> feature & 1)

    def need(self, *features: ProtocolFeature) -> None:
        """Raise Skipped if a protocol feature is not negotiated."""
        for feature in features:
            if not self.has(feature):
                raise Skipped(f"the protocol feature {feature.name} is not offered")

    async def accept(self) -> None:
        """Set the features and share the memory."""
        await self.must(R.SET_FEATURES, struct.pack("<Q", self.features))
        await self.must(R.SET_MEM_TABLE, self.table(), [self.arena.fd])

    def region(self) -> bytes:
        """Return the memory region of the arena, as messages have it."""
        arena = self.arena
        return struct.pack("<QQQQ", arena.base, arena.size, arena.user, arena.offset)

    def table(self) -> bytes:
        """Return the body of SET_MEM_TABLE."""
        return struct.pack("<II", 1, 0) + self.region()

    def new_ring(self, index: int, num: int, *, packed: bool = False) -> Vring:
        """Make a ring in the arena; it replaces one of the same index."""
        former = self.rings.pop(index, None)
        if former is not None:
            former.close()
        ring = PackedRing(self.arena, num) if packed else SplitRing(self.arena, num)
        vring = self.rings[index] = Vring(index, ring)
        return vring

    def addrs(self, vring: Vring, flags: int = 0, log: int = 0) -> bytes:
        """Return the body of SET_VRING_ADDR."""
        ring, user = vring.ring, self.arena.to_user
        return struct.pack("<IIQQQQ", vring.index, flags, user(ring.desc), user(ring.device), user(ring.driver), log)

    async def start(self, vring: Vring, base: int | None = None) -> None:
        """Set a ring up, start it and enable it."""
        await self.set_up(vring, base)
        await self.give_kick(vring)
        await self.enable(vring)

    async def set_up(self, vring: Vring, base: int | None = None) -> None:
        """Do all that a ring needs but SET_VRING_KICK, which starts it."""
        index, ring = vring.index, vring.ring
        if base is None:
            base = 1 << 15 | 1 << 31 if ring.packed else 0
        await self.must(R.SET_VRING_NUM, pair(index, ring.num))
        await self.must(R.SET_VRING_BASE, pair(index, base))
        await self.must(R.SET_VRING_ADDR, self.addrs(vring))
        for request, fd in ((R.SET_VRING_CALL, vring.call_fd), (R.SET_VRING_ERR, vring.err_fd)):
            await self.must(request, struct.pack("<Q", index), [fd])

    async def give_kick(self, vring: Vring) -> None:
        await self.must(R.SET_VRING_KICK, struct.pack("<Q", vring.index), [vring.kick_fd])

    async def enable(self, vring: Vring, on: bool = True) -> None:
        """Enable or disable a ring; without protocol features rings are enabled from the start."""
        if self.features >> F_PROTOCOL_FEATURES & 1:
            await self.must(R.SET_VRING_ENABLE, pair(vring.index, on))

    async def driver_ok(self) -> None:
        """Set the status to DRIVER_OK if the device has one."""
        if self.has(P.STATUS):
            await self.must(R.SET_STATUS, struct.pack("<Q", DRIVER_OK))

    async def status(self) -> int | None:
        """Return the device status; None if the device has none over vhost-user."""
        return await self.ask_number(R.GET_STATUS) if self.has(P.STATUS) else None

    async def config(self, offset: int, size: int) -> bytes:
        """Return bytes of the configuration space, of which all up to them are read. Raises Skipped, PeerError."""
        return (await self.config_at(0, offset + size))[offset:]

    async def config_at(self, offset: int, size: int) -> bytes:
        """Return what GET_CONFIG replies for these bytes. Raises Skipped if there is no such message, PeerError."""
        self.need(P.CONFIG)
        reply = await self.ask(R.GET_CONFIG, struct.pack("<III", offset, size, 0) + bytes(size))
        if len(reply) != 12 + size:
            raise BadReply(f"replied to GET_CONFIG of {size} bytes at {offset} with {reply[:64].hex()}")
        return reply[12:]

    # Requests

    async def answer(self, vring: Vring, within: float | None = None) -> tuple[int, int]:
        """Wait for the next answer; return its id and length. Raises Broken without one, HungUp."""
        fresh = await self.answers(vring, 1, within)
        if len(fresh) > 1:
            raise Broken(f"used {len(fresh)} buffers for one request: {fresh}", Level.MUST)
        return fresh[0]

    async def answers(self, vring: Vring, count: int, within: float | None = None) -> list[tuple[int, int]]:
        """Wait for ``count`` answers. Raises Broken if fewer come, HungUp."""
        fresh: list[tuple[int, int]] = []
        with trio.move_on_after(self.patience if within is None else within):
            pause = 0.0005
            while len(fresh) < count:
                fresh += vring.ring.answers()
                if len(fresh) < count:
                    if self.hung_up():
                        raise HungUp("closed the connection instead of an answer")
                    await trio.sleep(pause)
                    pause = min(2 * pause, 0.01)
        if len(fresh) < count:
            raise Broken(f"answered {len(fresh)} of {count} requests")
        return fresh

    async def reaction(self, vring: Vring, quiet: float = QUIET) -> Reaction:
        """Wait until the device reacts to a kick, at most ``quiet`` seconds."""
        pause = 0.0005
        with trio.move_on_after(quiet):
            while True:
                if vring.ring.pending:
                    return Reaction.ANSWERED
                if self.hung_up():
                    return Reaction.CLOSED
                if vring.errors():
                    return Reaction.ERROR
                await trio.sleep(pause)
                pause = min(2 * pause, 0.01)
        try:
            status = await self.status()
        except HungUp:
            return Reaction.CLOSED
        return Reaction.ERROR if status is not None and status & NEEDS_RESET else Reaction.SILENT

    async def make_inflight(self, queues: int, size: int) -> tuple[bytes, int]:
        """Have the device make an inflight area; return its description and its file descriptor. Raises PeerError."""
        self.need(P.INFLIGHT_SHMFD)
        await self.send(emit(R.GET_INFLIGHT_FD, struct.pack("<QQHH", 0, 0, queues, size) + bytes(4)))
        fds: list[int] = []
        area = await self.reply(R.GET_INFLIGHT_FD, fds)
        if len(fds) != 1:
            raise BadReply(f"replied to GET_INFLIGHT_FD with {len(fds)} file descriptors: {area.hex()}")
        return area, fds[0]

    def note(self, text: str) -> None:
        """Write an action on a ring into the report."""
        self.journal.note(text)

    def submit(self, vring: Vring, buffers: Sequence[Buffer]) -> int:
        """Make a request available and write it into the report; return the id that its answer has."""
        self.note_request(vring, buffers)
        return vring.ring.submit(buffers)

    def note_request(self, vring: Vring, buffers: Sequence[Buffer], extra: str = "") -> None:
        """Write a request, as its buffers, into the report."""
        parts = [f"{one.addr:#x}+{one.size}{'w' if one.writable else 'r'}" for one in buffers]
        data = [
            self.arena.read(one.addr, min(one.size, 64)).hex()
            for one in buffers
            if not one.writable and self.arena.base <= one.addr and one.addr + min(one.size, 64) <= self.arena.end
        ]
        text = f"ring {vring.index}: request {' '.join(parts)}"
        self.note(text + (f"; readable bytes {' '.join(data)}" if data else "") + extra)

    def close(self) -> None:
        super().close()
        for vring in self.rings.values():
            vring.close()
        self.arena.close()
