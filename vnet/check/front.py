"""A front end of the checker's own, for every carrier: memory, rings, requests, and reactions of the device."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import ClassVar

import attrs
import trio

from vnet.check.memory import Arena
from vnet.check.packed import PackedRing
from vnet.check.split import Buffer, SplitRing
from vnet.check.verdicts import Broken, Level, Skipped
from vnet.check.wire import HungUp, Journal

__all__ = [
    "EVENT_IDX",
    "INDIRECT_DESC",
    "NEEDS_RESET",
    "QUIET",
    "RING_PACKED",
    "VERSION_1",
    "Front",
    "Reaction",
    "Vring",
    "new_eventfd",
    "take_events",
]

INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_PACKED = 28, 29, 32, 34
NAMES = {INDIRECT_DESC: "INDIRECT_DESC", EVENT_IDX: "EVENT_IDX", VERSION_1: "VERSION_1", RING_PACKED: "RING_PACKED"}
NEEDS_RESET = 64
QUIET = 0.4
"""Seconds without a reaction after which a device counts as silent."""


class Reaction(StrEnum):
    """Reaction of a device to a kick."""

    ANSWERED = "used a buffer"
    CLOSED = "closed the connection"
    ERROR = "reported an error of the queue"
    SILENT = "did nothing"


def new_eventfd() -> int:
    """Return a new non-blocking eventfd."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


@attrs.define(eq=False)
class Vring:
    """A ring with its eventfds."""

    index: int
    ring: SplitRing | PackedRing
    kick_fd: int = attrs.field(factory=new_eventfd)
    call_fd: int = attrs.field(factory=new_eventfd)
    err_fd: int = attrs.field(factory=new_eventfd)

    def kick(self) -> None:
        """Notify the device. The system call orders the stores to the ring before it."""
        os.eventfd_write(self.kick_fd, 1)

    def calls(self) -> int:
        """Return the device's notifications since the last call."""
        return take_events(self.call_fd)

    def errors(self) -> int:
        """Return the device's error notifications since the last call."""
        return take_events(self.err_fd)

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


def take_events(fd: int) -> int:
    """Return the notifications of an eventfd since the last call."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


class Front(ABC):
    """A connection to a device, with memory and rings. Every wait ends after ``patience`` seconds."""

    carrier: ClassVar[str]
    """Protocol of the connection."""
    signs: ClassVar[str]
    """Signs of an error of a queue that the carrier has, for reports."""

    @abstractmethod
    def __init__(self, connected: socket.socket, journal: Journal, patience: float) -> None:
        """Take ownership of ``connected``, which is non-blocking."""
        self.journal = journal
        self.patience = patience
        self.arena = Arena()
        self.offered = self.features = 0
        self.names: Mapping[int, str] = NAMES
        """Names of feature bits."""
        self.rings: dict[int, Vring] = {}

    # The carrier

    @abstractmethod
    async def open(self) -> None:
        """Make the first exchange of messages. Raises PeerError."""

    @abstractmethod
    def replace(self, connected: socket.socket) -> None:
        """Go on with another connection, and close the former one."""

    @abstractmethod
    def hung_up(self) -> bool:
        """Return whether the device closed the connection."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, the rings and the memory."""

    # Bring-up

    @abstractmethod
    async def read_features(self) -> int:
        """Return the feature bits that the device offers. Raises PeerError."""

    async def negotiate(self, features: Iterable[int] = ()) -> None:
        """Own the device, and choose VERSION_1 and ``features``. Raises Skipped if one is not offered, PeerError."""
        self.offered = await self.read_features()
        wanted = 1 << VERSION_1
        for bit in features:
            if not self.offered >> bit & 1:
                raise Skipped(f"{self.names.get(bit, f'feature bit {bit}')} is not offered")
            wanted |= 1 << bit
        self.features = wanted

    @abstractmethod
    async def accept(self, parts: int = 1) -> None:
        """Set the features, and share the memory as ``parts`` adjoining regions. Raises PeerError."""

    @abstractmethod
    async def start(self, vring: Vring, base: int | None = None) -> None:
        """Set a ring up and start it, at an index. Raises Skipped if the carrier can't, PeerError."""

    @abstractmethod
    async def driver_ok(self) -> None:
        """Set the status to DRIVER_OK if the device has one. Raises PeerError."""

    @abstractmethod
    async def status(self) -> int | None:
        """Return the device status; None if the device has none over this carrier. Raises PeerError."""

    @abstractmethod
    async def set_status(self, value: int) -> None:
        """Set the device status; 0 resets, and waits for the end of it. Raises Skipped if there is none, PeerError."""

    async def config(self, offset: int, size: int) -> bytes:
        """Return bytes of the configuration space, of which all up to them are read. Raises Skipped, PeerError."""
        return (await self.config_at(0, offset + size))[offset:]

    @abstractmethod
    async def config_at(self, offset: int, size: int) -> bytes:
        """Return these bytes of the configuration space. Raises Skipped if there is none, PeerError."""

    def new_ring(self, index: int, num: int, *, packed: bool = False) -> Vring:
        """Make a ring in the arena; it replaces one of the same index."""
        former = self.rings.pop(index, None)
        if former is not None:
            former.close()
        ring = PackedRing(self.arena, num) if packed else SplitRing(self.arena, num)
        vring = self.rings[index] = self.make_vring(index, ring)
        return vring

    def make_vring(self, index: int, ring: SplitRing | PackedRing) -> Vring:
        """Return a ring with its ways of notification."""
        return Vring(index, ring)

    async def failed(self, vring: Vring) -> bool:
        """Return whether the device reported an error of the queue since the last call. Raises PeerError."""
        return bool(vring.errors())

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
                if await self.failed(vring):
                    return Reaction.ERROR
                await trio.sleep(pause)
                pause = min(2 * pause, 0.01)
        try:
            status = await self.status()
        except HungUp:
            return Reaction.CLOSED
        return Reaction.ERROR if status is not None and status & NEEDS_RESET else Reaction.SILENT

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

    def close_rings(self) -> None:
        """Close the rings and the memory."""
        for vring in self.rings.values():
            vring.close()
        self.arena.close()
