"""A vhost-user front end of the checker's own: it brings a back end up by messages."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import ClassVar

from drivers.transports.vhost_user.constants import (
    F_PROTOCOL_FEATURES,
    FrontendRequest,
    ProtocolFeature,
)
from vnet.check.front import Front, Vring
from vnet.check.trial import TrialOf
from vnet.check.verdicts import Skipped
from vnet.check.wire import BadReply, Journal, Wire, emit

__all__ = ["VHOST_USER", "VhostUserFront", "VhostUserTrial", "pair"]

R, P = FrontendRequest, ProtocolFeature
VHOST_USER = "vhost-user"
DRIVER_OK = 15
PROTOCOL = sum(
    1 << bit for bit in (P.MQ, P.LOG_SHMFD, P.REPLY_ACK, P.CONFIG, P.INFLIGHT_SHMFD, P.CONFIGURE_MEM_SLOTS, P.STATUS)
)
"""Protocol features that the checker accepts if they are offered."""


def pair(index: int, number: int) -> bytes:
    """Return the body of a message about one ring."""
    return struct.pack("<II", index & 0xFFFF_FFFF, number & 0xFFFF_FFFF)


class VhostUserFront(Wire, Front):
    """A connection to a back end."""

    carrier: ClassVar = VHOST_USER
    signs: ClassVar = "no error eventfd, no NEEDS_RESET"

    def __init__(self, connected: socket.socket, journal: Journal, patience: float) -> None:
        Wire.__init__(self, connected, journal, patience)
        Front.__init__(self, connected, journal, patience)
        self.protocol = 0

    async def open(self) -> None:
        self.offered = await self.read_features()

    async def read_features(self) -> int:
        return await self.ask_number(R.GET_FEATURES)

    async def negotiate(self, features: Iterable[int] = ()) -> None:
        await super().negotiate(features)
        if self.offered >> F_PROTOCOL_FEATURES & 1:
            self.protocol = await self.ask_number(R.GET_PROTOCOL_FEATURES) & PROTOCOL
            await self.send(emit(R.SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol)))
            self.acks = self.has(P.REPLY_ACK)
            self.features |= 1 << F_PROTOCOL_FEATURES
        await self.must(R.SET_OWNER)

    def has(self, feature: ProtocolFeature) -> bool:
        """Return whether a protocol feature is negotiated."""
        return bool(self.protocol >> feature & 1)

    def need(self, *features: ProtocolFeature) -> None:
        """Raise Skipped if a protocol feature is not negotiated."""
        for feature in features:
            if not self.has(feature):
                raise Skipped(f"the protocol feature {feature.name} is not offered")

    async def accept(self, parts: int = 1) -> None:
        await self.must(R.SET_FEATURES, struct.pack("<Q", self.features))
        await self.must(R.SET_MEM_TABLE, self.table(parts), [self.arena.fd] * parts)

    def region(self, part: int = 0, parts: int = 1) -> bytes:
        """Return one of ``parts`` equal memory regions of the arena, as messages have it."""
        arena = self.arena
        size = arena.size // parts
        low = part * size
        return struct.pack("<QQQQ", arena.base + low, size, arena.user + low, arena.offset + low)

    def table(self, parts: int = 1) -> bytes:
        """Return the body of SET_MEM_TABLE."""
        return struct.pack("<II", parts, 0) + b"".join(self.region(part, parts) for part in range(parts))

    def addrs(self, vring: Vring, flags: int = 0, log: int = 0) -> bytes:
        """Return the body of SET_VRING_ADDR."""
        ring, user = vring.ring, self.arena.to_user
        return struct.pack("<IIQQQQ", vring.index, flags, user(ring.desc), user(ring.device), user(ring.driver), log)

    async def start(self, vring: Vring, base: int | None = None) -> None:
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
        if self.has(P.STATUS):
            await self.set_status(DRIVER_OK)

    async def status(self) -> int | None:
        return await self.ask_number(R.GET_STATUS) if self.has(P.STATUS) else None

    async def set_status(self, value: int) -> None:
        self.need(P.STATUS)
        await self.must(R.SET_STATUS, struct.pack("<Q", value))

    async def config_at(self, offset: int, size: int) -> bytes:
        self.need(P.CONFIG)
        reply = await self.ask(R.GET_CONFIG, struct.pack("<III", offset, size, 0) + bytes(size))
        if len(reply) != 12 + size:
            raise BadReply(f"replied to GET_CONFIG of {size} bytes at {offset} with {reply[:64].hex()}")
        return reply[12:]

    async def make_inflight(self, queues: int, size: int) -> tuple[bytes, int]:
        """Have the device make an inflight area; return its description and its file descriptor. Raises PeerError."""
        self.need(P.INFLIGHT_SHMFD)
        await self.send(emit(R.GET_INFLIGHT_FD, struct.pack("<QQHH", 0, 0, queues, size) + bytes(4)))
        fds: list[int] = []
        area = await self.reply(R.GET_INFLIGHT_FD, fds)
        if len(fds) != 1:
            raise BadReply(f"replied to GET_INFLIGHT_FD with {len(fds)} file descriptors: {area.hex()}")
        return area, fds[0]

    def close(self) -> None:
        Wire.close(self)
        self.close_rings()


VhostUserTrial = TrialOf[VhostUserFront]
