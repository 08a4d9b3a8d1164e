"""A vhost-user back end that serves a foreign driver, and watches it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Collection
from pathlib import Path

import attrs
import trio
import trio.lowlevel

from drivers.carriers.framing import ProtocolError, receive_message
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES, FrontendRequest, ProtocolFeature
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, Assembler, UserMessage, ack, parse, reply
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    MemTable,
    MessageRefused,
    Payload,
    VringAddr,
    VringFd,
    VringState,
)
from vnet.check.driver.clauses import Observations
from vnet.check.driver.devices import WatchedDevice
from vnet.check.driver.memory import DriverError, SharedRegions
from vnet.check.driver.packed import WatchedPacked
from vnet.check.driver.ring import Chain, WatchedRing, WatchedSplit
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, RING_PACKED, VERSION_1
from vnet.errors import leaves
from vnet.linux import unix_socket
from vnet.linux.ipc import FileHandle, UnixSocket

__all__ = ["WatchedVring", "WatchingBack", "watch_one"]

R, P = FrontendRequest, ProtocolFeature
RECHECK = 0.25
"""Seconds without a kick after which the ring is looked at, and again before a kick counts as missing."""
PROTOCOL = 1 << P.MQ | 1 << P.REPLY_ACK | 1 << P.CONFIG
BATCH = 64
"""Chains that one ring serves before other tasks run."""


@attrs.define
class WatchedVring:
    """The set-up of a ring, and its task while it is started."""

    num: int = 0
    base: int = 0
    addrs: VringAddr | None = None
    kick: int = -1
    call: int = -1
    enabled: bool = False
    ring: WatchedRing | None = None
    scope: trio.CancelScope | None = None


class WatchingBack:
    """One connection of a front end. `serve` ends with it; `ended` says how."""

    def __init__(
        self, device: WatchedDevice, seen: Observations, without: Collection[int] = (), *, packed: bool = False
    ) -> None:
        """``without`` are ring features that are not offered; ``packed``: whether packed rings are."""
        self.device, self.seen = device, seen
        bits = (INDIRECT_DESC, EVENT_IDX, *((RING_PACKED,) if packed else ()))
        ring_features = sum(1 << bit for bit in bits if bit not in without)
        self.offered = device.features | ring_features | 1 << VERSION_1 | 1 << F_PROTOCOL_FEATURES
        self.features = 0
        self.memory = SharedRegions()
        self.vrings = [WatchedVring() for _ in range(device.rings)]
        self.ended = "the front end closed the connection"

    async def serve(self, connected: UnixSocket) -> None:
        """Serve the connection to its end."""
        assembler = Assembler(FRONTEND_MESSAGES)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    message = await receive_message(connected, assembler, math.inf, "front end", first=False)
                    if message is None:
                        break
                    try:
                        await self._handle(connected, message, nursery)
                    finally:
                        message.close()
                nursery.cancel_scope.cancel()
        except* (ProtocolError, DriverError, TransportLost) as group:
            self.ended = "; ".join(str(exc) for exc in leaves(group))
        finally:
            assembler.close()
            connected.close()
            for vring in self.vrings:
                _close(vring.kick)
                _close(vring.call)

    async def _handle(self, connected: UnixSocket, message: UserMessage, nursery: trio.Nursery) -> None:
        payload = parse(message, FRONTEND_MESSAGES)
        answer = await self.do(R(message.request), payload, message, nursery)
        if answer is not None:
            await connected.send(reply(message.request, answer))
        elif message.need_reply:
            await connected.send(ack(message.request, good=True))

    async def do(
        self, request: FrontendRequest, payload: Payload, message: UserMessage, nursery: trio.Nursery
    ) -> Payload | None:
        """Do what a message says; return its reply. Raises MessageRefused, DriverError."""
        match request, payload:
            case R.GET_FEATURES, _:
                return U64(self.offered)
            case R.SET_FEATURES, U64(value):
                self._judge_features(value)
            case R.GET_PROTOCOL_FEATURES, _:
                return U64(PROTOCOL)
            case R.GET_QUEUE_NUM, _:
                return U64(self.device.units)
            case R.GET_CONFIG, Config(offset, flags, data):
                config = self.device.config[offset : offset + len(data)]
                return Config(offset, flags, config + bytes(len(data) - len(config)))
            case R.SET_MEM_TABLE, MemTable(regions):
                self.memory = SharedRegions(regions, [_fd(handle) for handle in message.handles])
                for vring in self.vrings:
                    if vring.ring is not None:
                        vring.ring.memory = self.memory
            case R.SET_CONFIG, Config(offset, _, data):
                self.device.judge_write(offset, data)
            case R.SET_OWNER | R.RESET_OWNER | R.SET_PROTOCOL_FEATURES | R.SET_VRING_ERR, _:
                pass
            case _, VringState() | VringAddr() | VringFd():
                return await self._set_ring(request, payload, message, nursery)
            case _:
                raise MessageRefused(f"{request.name} is not served")
        return None

    def _judge_features(self, value: int) -> None:
        driver = value & ~(1 << F_PROTOCOL_FEATURES)
        self.seen.judge("FEAT-DRV-1", not value & ~self.offered, f"SET_FEATURES {value:#x}, offered {self.offered:#x}")
        if driver:  # a front end that resets the device may set none
            self.seen.judge("RFB-DRV-1", bool(driver >> VERSION_1 & 1), f"SET_FEATURES {value:#x}")
        self.features = value

    async def _set_ring(
        self, request: FrontendRequest, payload: Payload, message: UserMessage, nursery: trio.Nursery
    ) -> Payload | None:
        assert isinstance(payload, VringState | VringAddr | VringFd)
        if payload.index >= len(self.vrings):
            if request is R.SET_VRING_ENABLE or isinstance(payload, VringFd):
                return None  # QEMU sets up every ring that it might use
            raise MessageRefused(f"{request.name} of ring {payload.index}; the device has {len(self.vrings)}")
        vring = self.vrings[payload.index]
        match request, payload:
            case R.SET_VRING_NUM, VringState(_, num):
                vring.num = num
            case R.SET_VRING_BASE, VringState(_, base):
                vring.base = base
            case R.SET_VRING_ADDR, VringAddr():
                vring.addrs = payload
            case R.SET_VRING_ENABLE, VringState(_, on):
                vring.enabled = bool(on)
                self._start(payload.index, nursery)
            case R.SET_VRING_CALL, VringFd():
                vring.call = _replace(vring.call, message)
            case R.SET_VRING_KICK, VringFd():
                self._stop(vring)
                vring.kick = _replace(vring.kick, message)
                self._start(payload.index, nursery)
            case R.GET_VRING_BASE, VringState():
                self._stop(vring)
                vring.kick = _replace(vring.kick, None)
                return VringState(payload.index, vring.base)
            case _:
                raise MessageRefused(f"{request.name} is not served")
        return None

    def _start(self, index: int, nursery: trio.Nursery) -> None:
        """Start a ring that has all it needs, unless it runs."""
        vring = self.vrings[index]
        enabled = vring.enabled or not self.features >> F_PROTOCOL_FEATURES & 1
        if vring.addrs is None or vring.kick < 0 or not enabled or vring.scope is not None:
            return
        addrs = (vring.addrs.desc, vring.addrs.used, vring.addrs.avail)
        form = WatchedPacked if self.features & self.offered & 1 << RING_PACKED else WatchedSplit
        vring.ring = form(self.memory, vring.num, addrs, vring.base, self.features, self.seen)
        vring.scope = trio.CancelScope()
        nursery.start_soon(self._run, index, vring, vring.ring, vring.scope)

    def _stop(self, vring: WatchedVring) -> None:
        if vring.scope is not None and vring.ring is not None:
            vring.scope.cancel()
            vring.base = vring.ring.base
        vring.scope = vring.ring = None

    async def _run(self, index: int, vring: WatchedVring, ring: WatchedRing, scope: trio.CancelScope) -> None:
        """Serve a ring until it is stopped."""
        ring.ask_for_kick()
        judged = bool(ring.waiting)  # no kick is due for chains from before the start
        with scope:
            while True:
                await self.between(vring, ring)
                came = await _kicked(vring.kick) or (bool(ring.waiting) and await _kicked(vring.kick))
                if ring.waiting and not judged:
                    ring.judge_kick(came)
                judged = False
                while ring.waiting:
                    ring.judge_flags()
                    self._serve_batch(index, vring, ring)
                    ring.ask_for_kick()
                    await trio.lowlevel.checkpoint()

    def _serve_batch(self, index: int, vring: WatchedVring, ring: WatchedRing) -> None:
        call = False
        for _ in range(min(ring.waiting, BATCH)):
            call = self.answer(index, ring, ring.take()) or call
        if call:
            self.call(vring)

    def answer(self, index: int, ring: WatchedRing, chain: Chain) -> bool:
        """Serve a chain and give it back, or keep it; return whether the driver wants to be told."""
        written = self.device.serve(index, chain)
        return written is not None and ring.give(chain.head, written)

    async def between(self, vring: WatchedVring, ring: WatchedRing) -> None:
        """Run before each wait for a kick. Does nothing here."""

    def call(self, vring: WatchedVring) -> None:
        """Notify the driver. Raises DriverError."""
        if vring.call < 0:
            return
        try:
            os.eventfd_write(vring.call, 1)
        except BlockingIOError:
            pass  # the counter is full: the driver is told already
        except OSError as exc:
            raise DriverError(f"gave a file descriptor for calls that is no event: {exc.strerror}") from None


async def _kicked(kick: int) -> bool:
    """Return whether a kick came within `RECHECK` seconds."""
    with trio.move_on_after(RECHECK):
        try:
            await trio.lowlevel.wait_readable(kick)
            os.read(kick, 8)
        except BlockingIOError:
            pass
        except trio.ClosedResourceError:  # the front end replaces it, and the ring starts anew
            await trio.sleep_forever()
        except OSError as exc:
            raise DriverError(f"gave a file descriptor for kicks that is no event: {exc.strerror}") from None
        return True
    return False


async def watch_one(path: Path, back: WatchingBack, listening: trio.Event) -> None:
    """Listen at ``path``, set the event, and serve one front end to its end. Raises OSError."""
    with unix_socket.listen(path, socket.SOCK_STREAM, 1) as server:
        listening.set()
        connected = await unix_socket.Acceptor(server).accept()
    await back.serve(UnixSocket(connected))


def _fd(handle: object) -> int:
    assert isinstance(handle, FileHandle)
    return handle.fileno()


def _replace(former: int, message: UserMessage | None) -> int:
    """Close a file descriptor; return that of the message, or -1."""
    _close(former)
    if message is None or not message.handles:
        return -1
    handle = message.handles.pop()
    assert isinstance(handle, FileHandle)
    fd = handle.take()
    os.set_blocking(fd, False)
    return fd


def _close(fd: int) -> None:
    if fd >= 0:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)
