"""The hostile driver as a vhost-user front end: messages by hand, none of them waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio
import trio.testing

from drivers.contracts.ipc import Handle
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES, FrontendRequest, ProtocolFeature
from drivers.transports.vhost_user.front_rings import USER_BASE
from drivers.transports.vhost_user.messages import emit
from drivers.transports.vhost_user.payloads import (
    U64,
    MemRegion,
    MemTable,
    Payload,
    VringAddr,
    VringFd,
    VringState,
)
from rings.features import mask
from rings.layout import RingAddrs
from rings.status import Status
from vnet.host.vhost_user import SocketEnd
from vnet.linux.ipc import FileHandle
from vnet.testing.checks import bounded
from vnet.testing.hostile.driver import HostileDriver, P_co

__all__ = ["HostileUser"]

R = FrontendRequest
AGREED = mask((ProtocolFeature.STATUS, ProtocolFeature.CONFIG))
NOWHERE = 0x1000
"""An address that no memory of a host has."""


class HostileUser(HostileDriver[P_co]):
    """In place of the front end. `calls` takes 0 for a ring that broke, and a queue's number plus 1 for used buffers.

    The protocol has no registers: what the device thinks is read where it thinks it.
    """

    end: SocketEnd
    socket: socket.socket

    def look(self, carrier: Any) -> None:
        self.end = carrier
        self._events: list[Handle] = []
        self._kicks: dict[int, int] = {}

    async def arrive(self) -> None:
        """Be connected, once the device is done with the front end before."""
        await trio.testing.wait_all_tasks_blocked()
        connected = await self.end.connect()
        self.socket = socket.socket(fileno=os.dup(connected._socket.fileno()))  # type: ignore[attr-defined]
        connected.close()
        self.say(R.SET_PROTOCOL_FEATURES, U64(AGREED))
        self.say(R.SET_OWNER)
        [region] = self.end.regions
        table = MemTable((MemRegion(region.addr, region.size, USER_BASE + region.addr, 0),))
        self.say(R.SET_MEM_TABLE, table, [region.handle])

    def say(self, request: FrontendRequest, payload: Payload | None = None, handles: Sequence[Handle] = ()) -> None:
        """One message, which the device hears when it has its turn."""
        if self.socket.fileno() < 0:
            return
        fds = [handle.fileno() for handle in handles if isinstance(handle, FileHandle)]
        try:
            socket.send_fds(self.socket, [emit(request, payload)], fds)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hung up on us

    def places(self) -> tuple[int, int]:
        return NOWHERE, NOWHERE

    @property
    def status(self) -> Status:
        return self.pair.vhost.status

    @status.setter
    def status(self, value: int) -> None:
        self.say(R.SET_STATUS, U64(value))

    async def reset(self) -> None:
        self.status = Status(0)
        await trio.testing.wait_all_tasks_blocked()
        with bounded():
            while self.status:  # noqa: ASYNC110  a status wakes no task
                await trio.sleep(0.001)

    async def negotiate(self, features: int | None = None) -> None:
        await self.reset()
        self.driver_features = self.device_features if features is None else features
        self.status = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
        await trio.testing.wait_all_tasks_blocked()

    async def start(self, features: int | None = None, num: int | None = None, queues: int = 2) -> None:
        await self.negotiate(features)
        self.map_vectors(queues)
        self.rings = [self.set_up(queue, num) for queue in range(queues)]
        self.status = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
        await trio.testing.wait_all_tasks_blocked()
        self.calls.clear()  # a back end calls once when a ring starts, on behalf of the back end before it

    @property
    def device_features(self) -> int:
        return self.pair.vhost.device_features

    @property
    def driver_features(self) -> int:
        return self.pair.vhost.driver_features

    @driver_features.setter
    def driver_features(self, value: int) -> None:
        self.say(R.SET_FEATURES, U64(value | 1 << F_PROTOCOL_FEATURES))

    def config(self, offset: int, size: int) -> int:
        return int.from_bytes(self.pair.vhost.read_config(offset, size), "little")

    # Queues

    def queue_size(self, queue: int, num: int | None) -> int:
        return self.end.queue_size if num is None else num

    def place(self, queue: int, num: int, addrs: RingAddrs) -> None:
        self.say(R.SET_VRING_NUM, VringState(queue, num))
        self.say(R.SET_VRING_BASE, VringState(queue, 0))
        areas = (USER_BASE + area for area in (addrs.desc, addrs.device, addrs.driver))
        self.say(R.SET_VRING_ADDR, VringAddr(queue, 0, *areas))

    def enable(self, queue: int) -> None:
        self.say(R.SET_VRING_ENABLE, VringState(queue, 1))
        event = self.end.ipc.make_event()
        assert isinstance(event, FileHandle)
        self._events.append(event)
        self._kicks[queue] = event.fileno()
        self.say(R.SET_VRING_KICK, VringFd(queue), [event])

    def kick(self, queue: int, value: int | None = None) -> None:
        if queue in self._kicks:
            os.eventfd_write(self._kicks[queue], 1)

    def map_vectors(self, queues: int = 2) -> None:
        for queue in range(queues):
            for request, call in ((R.SET_VRING_CALL, queue + 1), (R.SET_VRING_ERR, 0)):
                watch = self.end.ipc.watch(self.end.ipc.make_event(), partial(self.calls.append, call))
                self._events.append(watch)
                self.say(request, VringFd(queue), [watch])

    def close(self) -> None:
        """Hang up first: a device that waits for what a driver broke does not wait for long then."""
        self.let_go()
        super().close()

    def let_go(self) -> None:
        """Hang up."""
        self.socket.close()
        while self._events:
            self._events.pop().close()
        self._kicks.clear()
