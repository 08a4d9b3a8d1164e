"""The rings of a front end: made here, started and stopped at the back end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs

from drivers.bus.virtio import DriverQueue, QueueSpec
from drivers.carriers.vhost_user import UserSocket
from drivers.contracts.ipc import Handle, Notifier, Unusable
from drivers.errors import ProbeError
from drivers.memory.vring import Vring, VringMemory
from drivers.transports.vhost_user.connection import BackEndConnection
from drivers.transports.vhost_user.constants import FrontendRequest
from drivers.transports.vhost_user.payloads import MemRegion, MemTable, VringAddr, VringFd, VringState
from rings.formats import ring_format

__all__ = ["STOP_TIMEOUT", "USER_BASE", "FrontRings"]

R = FrontendRequest
USER_BASE = 1 << 46
"""Rings are named by addresses of the front end's process, buffers by those of the driver's host. Nobody looks where
the process has them: these are that far apart, so that whoever mixes them up finds nothing."""
STOP_TIMEOUT = 35.0
"""Seconds that a back end may take to stop a ring. It first ends what it has begun, ours for 30 seconds at most; once
we hang up, memory is given back, and must not be written to any more."""


@attrs.frozen(eq=False)
class _Ring:
    """What is passed to the back end when a ring starts."""

    index: int
    vring: Vring
    kick: Notifier
    call: Handle
    err: Handle

    def close(self) -> None:
        for handle in (self.kick, self.call, self.err):
            handle.close()


class FrontRings:
    """Of one device, from one set-up to the next."""

    def __init__(self, socket: UserSocket) -> None:
        self._socket = socket
        self._memory = VringMemory(socket.dma)
        self._rings: list[_Ring] = []
        self._queues: list[DriverQueue] = []
        self._started: list[int] = []
        self._features = 0

    @property
    def started(self) -> bool:
        """Whether the back end may touch any of them."""
        return bool(self._started)

    def make(self, features: int, specs: Sequence[QueueSpec], broken: Callable[[int], None]) -> list[DriverQueue]:
        """Rings and their events. ``broken`` hears of one that the back end can't go on with. Raises ProbeError."""
        name, ipc = self._socket.name, self._socket.ipc
        self._queues, self._features = [], features
        for index, spec in enumerate(specs):
            vring = self._memory.make(
                features, self._socket.queue_size, spec.num, spec.segments, f"{name}, queue {index}"
            )
            made: list[Handle] = []
            try:
                kick = ipc.notifier(ipc.make_event())
                made.append(kick)
                queue = DriverQueue(index, spec, vring.ring, kick.notify)
                self._queues.append(queue)
                call = ipc.watch(ipc.make_event(), queue.on_call)
                made.append(call)
                err = ipc.watch(ipc.make_event(), partial(broken, index))
            except Unusable as exc:
                for handle in made:
                    handle.close()
                raise ProbeError(f"{name}: {exc}") from None
            self._rings.append(_Ring(index, vring, kick, call, err))
        return self._queues

    async def start(self, connection: BackEndConnection, *, enable: bool) -> None:
        """Memory first, then each ring. Raises ProbeError, TransportLost."""
        regions = self._socket.regions
        table = MemTable(tuple(MemRegion(r.addr, r.size, USER_BASE + r.addr, r.offset) for r in regions))
        await connection.tell(R.SET_MEM_TABLE, table, [region.handle for region in regions])
        start = ring_format(
            self._features
        ).start  # of a packed ring both sides' places are told, of a split one this is 0
        for ring in self._rings:
            index, addrs = ring.index, ring.vring.addrs
            await connection.tell(R.SET_VRING_NUM, VringState(index, ring.vring.num))
            await connection.tell(R.SET_VRING_BASE, VringState(index, start | start << 16))
            at = (USER_BASE + area for area in (addrs.desc, addrs.device, addrs.driver))
            await connection.tell(R.SET_VRING_ADDR, VringAddr(index, 0, *at))
            await connection.tell(R.SET_VRING_CALL, VringFd(index), (ring.call,))
            await connection.tell(R.SET_VRING_ERR, VringFd(index), (ring.err,))
            if enable:
                await connection.tell(R.SET_VRING_ENABLE, VringState(index, 1))
            self._started.append(index)
            await connection.tell(R.SET_VRING_KICK, VringFd(index), (ring.kick,))

    async def stop(self, connection: BackEndConnection) -> None:
        """Return when the back end is done with all of them. Raises TransportLost."""
        while self._started:
            index = self._started[-1]
            answer = await connection.ask(R.GET_VRING_BASE, VringState(index, 0), patience=STOP_TIMEOUT)
            if not isinstance(answer, VringState) or answer.index != index:
                raise connection.broken(f"GET_VRING_BASE of ring {index} was answered with {answer}")
            self._started.pop()

    def lost(self) -> None:
        """Nobody serves them any more: nothing more is moved into them."""
        self._started.clear()
        for queue in self._queues:
            queue.live = False

    def free(self) -> None:
        """Give everything back; the back end must not reach it any more."""
        for queue in self._queues:
            queue.close()
        form = ring_format(self._features)
        while self._rings:
            ring = self._rings.pop()
            ring.close()
            # A back end that was stopped when we hung up may go on later: it finds nothing to take any more.
            for start, size in zip(attrs.astuple(ring.vring.addrs), form.sizes(ring.vring.num), strict=True):
                self._socket.dma.view(start, size, True)[:] = bytes(size)
        self._queues = []
        self._memory.free()
