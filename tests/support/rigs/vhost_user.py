"""A front end by hand: every message as a test wants it, memory and eventfds of its own, and a driver on one ring."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from drivers.bus.back import Identity
from drivers.bus.vhost import VhostBus, VhostDriver
from drivers.contracts.hw import DmaBuffer
from drivers.contracts.ipc import Handle
from drivers.devices.blk import BLK, BlkPlug
from drivers.transports.vhost_user.back import VhostUserBack
from drivers.transports.vhost_user.constants import F_LOG_ALL, F_PROTOCOL_FEATURES, VRING_F_LOG, FrontendRequest
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, Assembler, emit, parse_reply
from drivers.transports.vhost_user.payloads import (
    U64,
    Empty,
    Log,
    MemRegion,
    MemTable,
    Payload,
    ProtocolError,
    VringAddr,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from rings.features import RingFeature
from rings.formats import ring_format
from rings.ids import DeviceId
from rings.layout import DESC_SIZE, RingAddrs
from rings.queue import Virtqueue
from support.rigs.ring import get
from vnet.linux.ipc import FileHandle, LocalIpc, UnixSocket, socket_pair
from vnet.linux.memory import HostMemory
from vnet.linux.poller import Poller
from vnet.testing import fds, maps

__all__ = [
    "MIB",
    "NUM",
    "USER",
    "Bench",
    "FrontEnd",
    "HungUp",
    "R",
    "Ring",
    "begin",
    "finish",
    "open_back",
    "open_bench",
    "request",
]

R = FrontendRequest
USER = 0x7F00_0000_0000
"""Where the front end's process has its memory."""
NUM = 8
MIB = 1 << 20


class HungUp(Exception):
    """The back end closed the connection."""


class Ring:
    """One ring of the front end: its memory, its events, the driver's side of it."""

    def __init__(self, memory: HostMemory, index: int, num: int, features: int) -> None:
        self.index, self.num = index, num
        self.form = ring_format(features)
        self.buffers = [memory.alloc(size) for size in self.form.sizes(num)]
        self.addrs = RingAddrs(*(buffer.addr for buffer in self.buffers))
        self._memory, self._features = memory, features
        self._tables = memory.alloc(num * 8 * DESC_SIZE)
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.err_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.queue = self.driver()
        self.begun: list[tuple[DmaBuffer, DmaBuffer]] = []
        """Data and status of each request begun; its token is its index."""

    def driver(self) -> Virtqueue:
        """The driver's side, anew: the ring starts at 0."""
        for buffer in self.buffers:
            self._memory.view(buffer.addr, buffer.size, True)[:] = bytes(buffer.size)
        return self.form.driver(
            self._memory,
            self.num,
            self.addrs,
            event_idx=bool(self._features >> RingFeature.EVENT_IDX & 1),
            indirect=self._tables.addr,
            indirect_max=8,
        )

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def offer_first(self, head: int) -> None:
        """Make ``head`` available as the first entry of a split ring, whatever it names, and kick."""
        view = self._memory.view(self.addrs.driver, 4 + 2 * self.num, True)
        view[4:6] = head.to_bytes(2, "little")
        view[2:4] = (1).to_bytes(2, "little")
        self.kick()

    @property
    def used_idx(self) -> int:
        return int.from_bytes(self._memory.view(self.addrs.device, 4)[2:], "little")

    def called(self) -> int:
        """Calls since the last look."""
        try:
            return os.eventfd_read(self.call_fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)


class FrontEnd:
    """One connection. `tell` asks for an acknowledgement, `post` does not."""

    def __init__(self, socket: UnixSocket, features: int, rings: int = 1, num: int = NUM, size: int = MIB) -> None:
        self.socket = socket
        self.features = features
        self.memory = HostMemory(size, name="front")
        self.rings = [Ring(self.memory, index, num, features) for index in range(rings)]
        self._assembler = Assembler(FRONTEND_MESSAGES, replies=True)
        self.region = MemRegion(self.memory.base, size, USER, 0)
        self.passed: list[Handle] = []
        """File descriptors that came with the last answer."""

    def user(self, addr: int) -> int:
        """The address that its own process has for one of the driver's."""
        return USER + addr - self.memory.base

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        await self.socket.send(data, [FileHandle(fd) for fd in fds])

    async def post(self, request: R, payload: Payload | None = None, fds: Sequence[int] = ()) -> None:
        await self.send(emit(request, payload), fds)

    async def tell(self, request: R, payload: Payload | None = None, fds: Sequence[int] = ()) -> bool:
        """Whether the back end says that all went well. Raises HungUp."""
        await self.send(emit(request, payload, need_reply=True), fds)
        answer = await self.answer(request)
        return isinstance(answer, U64) and not answer.value

    async def ask(self, request: R, payload: Payload | None = None, fds: Sequence[int] = ()) -> Any:
        """The answer. Raises HungUp."""
        await self.send(emit(request, payload), fds)
        return await self.answer(request)

    async def answer(self, request: R) -> Payload:
        while True:
            try:
                data, handles = await self.socket.receive(self._assembler.missing)
            except Exception as exc:
                raise HungUp from exc
            if not data:
                raise HungUp
            message = self._assembler.feed(data, handles)
            if message is not None:
                self.passed = message.handles
                return parse_reply(message, request, FRONTEND_MESSAGES)

    async def hung_up(self) -> bool:
        """Wait until the back end has closed the connection, or until it answers instead."""
        try:
            data, handles = await self.socket.receive(4096)
        except Exception:  # noqa: BLE001
            return True
        for handle in handles:
            handle.close()
        return not data

    async def negotiate(self, protocol_features: int = PROTOCOL_FEATURES) -> None:
        """As far as owning the device and its features."""
        offered = await self.ask(R.GET_FEATURES)
        assert offered.value >> F_PROTOCOL_FEATURES & 1
        assert not self.features & ~offered.value
        assert (await self.ask(R.GET_PROTOCOL_FEATURES)).value & protocol_features == protocol_features
        await self.post(R.SET_PROTOCOL_FEATURES, U64(protocol_features))
        await self.post(R.SET_OWNER)

    async def share(self) -> bool:
        return await self.tell(R.SET_MEM_TABLE, MemTable((self.region,)), [self.memory.fd])

    def addrs(self, ring: Ring, *, log: bool = False) -> VringAddr:
        """As QEMU says them: the address for the log always, and whether to log by a flag."""
        desc, used, avail = (self.user(addr) for addr in (ring.addrs.desc, ring.addrs.device, ring.addrs.driver))
        return VringAddr(ring.index, VRING_F_LOG if log else 0, desc, used, avail, ring.addrs.device)

    async def log_to(self, fd: int, size: int, offset: int = 0) -> None:
        """Give a dirty log. Raises HungUp if it is refused."""
        assert await self.ask(R.SET_LOG_BASE, Log(size, offset), [fd]) == Empty()

    async def log(self, on: bool) -> None:
        """Have what is written logged, or no longer."""
        features = self.features | 1 << F_PROTOCOL_FEATURES | on << F_LOG_ALL
        assert await self.tell(R.SET_FEATURES, U64(features))
        for ring in self.rings:
            assert await self.tell(R.SET_VRING_ADDR, self.addrs(ring, log=on))

    async def start(self, ring: Ring, base: int | None = None, *, enable: bool = True) -> bool:
        """Set one ring up; whether it started."""
        assert await self.tell(R.SET_VRING_NUM, VringState(ring.index, ring.num))
        assert await self.tell(R.SET_VRING_BASE, VringState(ring.index, ring.form.start if base is None else base))
        assert await self.tell(R.SET_VRING_ADDR, self.addrs(ring))
        assert await self.tell(R.SET_VRING_CALL, VringFd(ring.index), [ring.call_fd])
        assert await self.tell(R.SET_VRING_ERR, VringFd(ring.index), [ring.err_fd])
        if enable:
            assert await self.tell(R.SET_VRING_ENABLE, VringState(ring.index, 1))
        return await self.tell(R.SET_VRING_KICK, VringFd(ring.index), [ring.kick_fd])

    async def bring_up(self, protocol_features: int = PROTOCOL_FEATURES) -> None:
        """Everything up to a device that runs."""
        await self.negotiate(protocol_features)
        assert await self.tell(R.SET_FEATURES, U64(self.features | 1 << F_PROTOCOL_FEATURES))
        assert await self.share()
        for ring in self.rings:
            assert await self.start(ring)
        assert await self.tell(R.SET_STATUS, U64(15))

    def buffer(self, data: bytes | int) -> DmaBuffer:
        size = data if isinstance(data, int) else len(data)
        buffer = self.memory.alloc(size)
        if not isinstance(data, int):
            self.memory.view(buffer.addr, size, True)[:] = data
        return buffer

    def close(self) -> None:
        self.socket.close()
        self._assembler.close()
        for ring in self.rings:
            ring.close()
        self.memory.close()


async def request(front: FrontEnd, ring: Ring, kind: int, sector: int, data: bytes | int) -> bytes:
    """One request of a driver; what came back, the status last."""
    begin(front, ring, kind, sector, data)
    return await finish(front, ring)


def begin(front: FrontEnd, ring: Ring, kind: int, sector: int, data: bytes | int, *, kick: bool = True) -> None:
    """Make one request available: to write bytes, or to read as many as that."""
    header = front.buffer(kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little"))
    body, status = front.buffer(data), front.buffer(b"\xff")
    readable, writable = [(header.addr, 16)], [(status.addr, 1)]
    if isinstance(data, int):
        writable.insert(0, (body.addr, body.size))
    else:
        readable.append((body.addr, body.size))
    ring.queue.enable_cb()
    ring.queue.add(readable, writable, len(ring.begun))
    ring.begun.append((body, status))
    if ring.queue.publish() and kick:
        ring.kick()


async def finish(front: FrontEnd, ring: Ring) -> bytes:
    """The data of the next answered request, its status last."""
    with trio.fail_after(5):
        while (used := get(ring.queue)) is None:  # noqa: ASYNC110  as a driver that polls
            await trio.sleep(0.01)
    body, status = ring.begun[used[0]]
    return bytes(front.memory.view(body.addr, body.size)) + bytes(front.memory.view(status.addr, 1))


class Bench:
    """A vhost-blk device behind a back end, and front ends as a test needs them."""

    def __init__(self, nursery: trio.Nursery, back: VhostUserBack, plug: BlkPlug, features: int) -> None:
        self.nursery, self.back, self.plug, self.features = nursery, back, plug, features
        self.errors: list[Exception] = []

    async def converse(self, socket: UnixSocket) -> None:
        try:
            await self.back.serve_connection(socket)
        except Exception as exc:  # noqa: BLE001  a test inspects any error
            self.errors.append(exc)

    @asynccontextmanager
    async def front(self, **options: Any) -> AsyncIterator[FrontEnd]:
        ours, theirs = socket_pair()
        self.nursery.start_soon(self.converse, theirs)
        await trio.testing.wait_all_tasks_blocked()
        front = FrontEnd(ours, self.features, **options)
        try:
            yield front
        finally:
            front.close()
            await self.idle()

    @asynccontextmanager
    async def another(self) -> AsyncIterator[FrontEnd]:
        """A connection besides the one there is."""
        ours, theirs = socket_pair()
        self.nursery.start_soon(self.converse, theirs)
        front = FrontEnd(ours, self.features)
        try:
            yield front
        finally:
            front.close()

    async def reconnect(self, front: FrontEnd) -> None:
        """The connection is lost and made again: the front end's memory and its rings stay as they are."""
        front.socket.close()
        await self.idle()
        front.socket, theirs = socket_pair()
        self.nursery.start_soon(self.converse, theirs)
        await trio.testing.wait_all_tasks_blocked()

    async def idle(self) -> None:
        """Wait until no front end is connected."""
        while self.back.connected:  # noqa: ASYNC110  there is nothing else to wait for
            await trio.sleep(0.01)


@asynccontextmanager
async def open_back(
    driver: VhostDriver, identity: Identity, *, allow_unsealed: bool = False
) -> AsyncIterator[VhostUserBack]:
    """A device behind a back end that takes front ends."""
    poller = Poller()
    back = VhostUserBack(LocalIpc(poller, allow_unsealed=allow_unsealed), identity)
    bus = VhostBus()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        bus.register_driver(driver)
        await nursery.start(bus.serve)
        bus.register_device(back.device)
        await back.device.ready.wait()
        back.bind()
        yield back
        nursery.cancel_scope.cancel()
    poller.close()


@asynccontextmanager
async def open_bench(plug: BlkPlug, *, allow_unsealed: bool = False, packed: bool = False) -> AsyncIterator[Bench]:
    """Nothing is left afterwards: neither descriptors nor mappings."""
    before = fds(), maps()
    driver, identity = BLK.vhost_driver(lambda device: plug), Identity(DeviceId.BLOCK, "disk0", packed)
    async with open_back(driver, identity, allow_unsealed=allow_unsealed) as back, trio.open_nursery() as nursery:
        bench = Bench(nursery, back, plug, back.device.device_features)
        yield bench
        await bench.idle()
        nursery.cancel_scope.cancel()
    assert fds() <= before[0]
    assert maps() <= before[1]
    for error in bench.errors:
        assert isinstance(error, ProtocolError) or type(error).__name__ == "TransportLost", error
