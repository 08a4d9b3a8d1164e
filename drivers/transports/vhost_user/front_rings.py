"""The rings of a front end: allocated here, started and stopped at the back end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs

from drivers.bus.virtio import DriverQueue, QueueSpec
from drivers.carriers.vhost_user import VhostUserSocket
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
"""Difference between user addresses, which messages use for rings, and addresses of the driver's host, which rings use
for buffers. The value is arbitrary, but large: a back end that confuses the two address spaces finds no region."""
STOP_TIMEOUT = 35.0
"""Seconds that a back end may take to stop a ring. It first completes its requests, ours within 30 seconds. After the
front end disconnects it frees the memory, which must not be written to any more."""


@attrs.frozen(eq=False)
class _Ring:
    """A ring with its events, as passed to the back end."""

    index: int
    vring: Vring
    kick: Notifier
    call: Handle
    err: Handle

    def close(self) -> None:
        for handle in (self.kick, self.call, self.err):
            handle.close()


class FrontRings:
    """The rings of a device between two resets."""

    def __init__(self, socket: VhostUserSocket) -> None:
        self._socket = socket
        self._memory = VringMemory(socket.dma)
        self._rings: list[_Ring] = []
        self._queues: list[DriverQueue] = []
        self._started: list[int] = []
        self._features = 0

    @property
    def started(self) -> bool:
        """Whether the back end may access any ring."""
        return bool(self._started)

    def make(self, features: int, specs: Sequence[QueueSpec], broken: Callable[[int], None]) -> list[DriverQueue]:
        """Allocate rings and events; return the queues. Raises ProbeError.

        Calls ``broken`` with the index of a ring for which the back end signals an error.
        """
        name, ipc = self._socket.name, self._socket.ipc
        self._queues, self._features = [], features
        for index, spec in enumerate(specs):
            vring = self._memory.make(
                features, self._socket.queue_size, spec.num, spec.segments, f"{name}, {spec.name}"
            )
            handles: list[Handle] = []
            try:
                kick = ipc.notifier(ipc.make_event())
                handles.append(kick)
                queue = DriverQueue(index, spec, vring.ring, kick.notify)
                self._queues.append(queue)
                call = ipc.watch(ipc.make_event(), queue.on_call)
                handles.append(call)
                queue.doorbells = kick, call
                err = ipc.watch(ipc.make_event(), partial(broken, index))
            except Unusable as exc:
                for handle in handles:
                    handle.close()
                raise ProbeError(f"{name}: {exc}") from None
            self._rings.append(_Ring(index, vring, kick, call, err))
        return self._queues

    async def start(self, connection: BackEndConnection, *, enable: bool) -> None:
        """Share the memory, then start each ring. Raises ProbeError, TransportLost."""
        regions = self._socket.regions
        table = MemTable(tuple(MemRegion(r.addr, r.size, USER_BASE + r.addr, r.offset) for r in regions))
        await connection.send(R.SET_MEM_TABLE, table, [region.handle for region in regions])
        # The base of a packed ring holds both sides' positions; that of a split ring is 0.
        start = ring_format(self._features).start
        for ring in self._rings:
            index, addrs = ring.index, ring.vring.addrs
            await connection.send(R.SET_VRING_NUM, VringState(index, ring.vring.num))
            await connection.send(R.SET_VRING_BASE, VringState(index, start | start << 16))
            at = (USER_BASE + area for area in (addrs.desc, addrs.device, addrs.driver))
            await connection.send(R.SET_VRING_ADDR, VringAddr(index, 0, *at))
            await connection.send(R.SET_VRING_CALL, VringFd(index), (ring.call,))
            await connection.send(R.SET_VRING_ERR, VringFd(index), (ring.err,))
            if enable:
                await connection.send(R.SET_VRING_ENABLE, VringState(index, 1))
            self._started.append(index)
            await connection.send(R.SET_VRING_KICK, VringFd(index), (ring.kick,))

    async def stop(self, connection: BackEndConnection) -> None:
        """Stop all rings; return when the back end has stopped using them. Raises TransportLost."""
        while self._started:
            index = self._started[-1]
            answer = await connection.query(R.GET_VRING_BASE, VringState, VringState(index, 0), patience=STOP_TIMEOUT)
            if answer.index != index:
                raise connection.invalid_reply(f"invalid reply to GET_VRING_BASE of ring {index}: {answer}")
            self._started.pop()

    def mark_dead(self) -> None:
        """Mark the rings as dead after the connection ended: queues add nothing more."""
        self._started.clear()
        for queue in self._queues:
            queue.live = False

    def free(self) -> None:
        """Free rings and events, which the back end must not access any more."""
        for queue in self._queues:
            queue.close()
        form = ring_format(self._features)
        while self._rings:
            ring = self._rings.pop()
            ring.close()
            # A back end that was suspended at the disconnect may continue later: it must find empty rings.
            for start, size in zip(attrs.astuple(ring.vring.addrs), form.sizes(ring.vring.num), strict=True):
                self._socket.dma.view(start, size, True)[:] = bytes(size)
        self._queues = []
        self._memory.free()
