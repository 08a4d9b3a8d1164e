"""The driver's half: what the virtio bus asks for, as messages to a back end in another process.

The protocol has no registers. Where a back end has no device status either (STATUS), it is kept here; the rings of a
device are started at DRIVER_OK, and a device is reset by stopping all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from drivers.bus.virtio import NO_ANSWER, DriverQueue, QueueSpec, VirtioBus, VirtioDevice
from drivers.carriers.vhost_user import OwnConfig, UserClient, UserSocket
from drivers.contracts.hw import DmaMemory
from drivers.contracts.ipc import FdSocket, Unusable
from drivers.errors import ProbeError, TransportLost
from drivers.flow.pump import Signal
from drivers.transports.vhost_user.connection import BackEndConnection
from drivers.transports.vhost_user.constants import (
    F_LOG_ALL,
    F_NET_MTU,
    F_PROTOCOL_FEATURES,
    MAX_CONFIG,
    MAX_RINGS,
    ONE_RING,
    RINGS_PER_UNIT,
    ConfigFlag,
    FrontendRequest,
    ProtocolFeature,
)
from drivers.transports.vhost_user.front_rings import FrontRings
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
)
from rings.features import mask
from rings.status import Status

__all__ = ["PROTOCOL_FEATURES", "VHOST_USER", "VhostUserFront"]

R, F = FrontendRequest, ProtocolFeature
PROTOCOL_FEATURES = mask((F.MQ, F.REPLY_ACK, F.MTU, F.BACKEND_REQ, F.CONFIG, F.RESET_DEVICE, F.STATUS))
"""What is agreed on where a back end has it."""
NOT_THE_DEVICES = 1 << F_PROTOCOL_FEATURES | 1 << F_LOG_ALL
RETRY = 0.01, 1.0
"""Seconds between two attempts to connect: at first, and at most."""
LOOK, SILENT = 10.0, 20.0
"""Seconds between two looks whether a back end that has rings still answers, and seconds that it may take for that.
Requests are held for one that is stopped as for one that is gone."""
LEAVE_TIMEOUT = 3.0
"""Seconds that a back end may take to stop the device when the driver's end is closed. The host's memory ends then,
too: a back end that is later has no driver that it could harm."""


class VhostUserFront:
    """`drivers.bus.virtio.ConfigOps`. The device appears with the first connection and outlives it."""

    def __init__(self, socket: UserSocket, virtio: VirtioBus, refuse: Callable[[str], None]) -> None:
        """``refuse`` is told why there is no connection, and "" once there is one."""
        self.features = socket.ring_features
        self.dma: DmaMemory = socket.dma
        self._socket = socket
        self._virtio = virtio
        self._refuse = refuse
        self._device: VirtioDevice | None = None
        self._connection: BackEndConnection | None = None
        self._online = Signal()
        self._scope = trio.CancelScope(shield=True)
        self._agreed = 0
        self._offered = 0
        self._status = Status(0)
        self._generation = 0
        self._queue_max: int | None = None
        """Rings that the back end has; None where it does not say."""
        self._rings = FrontRings(socket)

    # Connections

    async def run(self) -> None:
        """Connect as often as it takes, until `leave`: whoever cancels waits until the device was stopped."""
        shortest, longest = RETRY
        pause = shortest
        with self._scope:
            while True:
                try:
                    began = trio.current_time()
                    await self._serve(BackEndConnection(self._socket.name, await self._socket.connect()))
                    if trio.current_time() - began > longest:
                        pause = shortest
                except TransportLost as exc:
                    self._refuse(str(exc))
                await trio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _serve(self, connection: BackEndConnection) -> None:
        """One connection, until it ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run, nursery.cancel_scope.cancel)
                try:
                    channel = await self._introduce(connection)
                    if channel is not None:
                        nursery.start_soon(connection.overhear, channel, self._config_changed, self._refused)
                    self._connection = connection
                    nursery.start_soon(self._look, connection)
                    self._show()
                except (ProbeError, TransportLost, Unusable) as exc:
                    connection.end(str(exc))
        finally:
            connection.end("the driver's end was closed")
            lost, self._connection = self._connection is not None, None
            self._rings.lost()
            self._refuse(connection.reason)
            if self._device is not None:
                if lost:
                    self._device.failures.append(connection.reason)
                self._device.changed.set()

    async def _look(self, connection: BackEndConnection) -> None:
        """Hang up on a back end that has rings and answers nothing."""
        with suppress(TransportLost):
            while True:
                await trio.sleep(LOOK)
                if self._rings.started:
                    await connection.ask(R.GET_FEATURES, patience=SILENT)

    async def _introduce(self, connection: BackEndConnection) -> FdSocket | None:
        """What is said before there is a device, in the order in which QEMU says it; the back end's own channel."""
        self._agreed, self._generation, self._queue_max = 0, 0, None
        self._offered = await connection.number(R.GET_FEATURES)
        if self._offered >> F_PROTOCOL_FEATURES & 1:
            self._agreed = await connection.number(R.GET_PROTOCOL_FEATURES) & PROTOCOL_FEATURES
            await connection.tell(R.SET_PROTOCOL_FEATURES, U64(self._agreed))
            connection.acknowledged = self._has(F.REPLY_ACK)
        if self._has(F.MQ):
            units = await connection.number(R.GET_QUEUE_NUM)
            each, uncounted = RINGS_PER_UNIT.get(self._socket.device_id, ONE_RING)
            self._queue_max = min(each * units + uncounted, MAX_RINGS)
        channel = None
        if self._has(F.BACKEND_REQ):
            channel, theirs = self._socket.ipc.make_channel()
            try:
                await connection.tell(R.SET_BACKEND_REQ_FD, None, (theirs,))
            except BaseException:
                channel.close()
                raise
            finally:
                theirs.close()
        try:
            await connection.tell(R.SET_OWNER)
        except BaseException:
            if channel is not None:
                channel.close()
            raise
        return channel

    def _show(self) -> None:
        """There is a device: put it on its bus, or have the one that is there brought up again."""
        self._refuse("")
        self._online.set()
        if self._device is None:
            socket = self._socket
            self._device = VirtioDevice(socket.device_id, socket.vendor_id, self, socket.name)
        self._virtio.renew_device(self._device)  # the back end may be another one, or follow a new start

    async def leave(self) -> None:
        """Take the device off its bus, which stops it if the back end answers in time; then hang up."""
        if self._connection is not None:
            self._connection.hurry(LEAVE_TIMEOUT)
        if self._device is not None:
            await self._virtio.discard_device(self._device)
        self._scope.cancel()

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self._agreed >> feature & 1)

    def _live(self) -> BackEndConnection:
        """Raises TransportLost."""
        if self._connection is None or self._connection.reason:
            raise TransportLost(f"{self._socket.name}: there is no connection to a back end")
        return self._connection

    def _config_changed(self) -> None:
        self._generation += 1
        if self._device is not None:
            self._device.interrupt()

    def _refused(self, why: str) -> None:
        """Note what the back end asked in vain, once."""
        if self._device is not None and (text := f"refused: {why}") not in self._device.failures:
            self._device.failures.append(text)

    # ConfigOps: status and features

    @property
    def online(self) -> bool:
        return self._connection is not None and not self._connection.reason

    async def wait_online(self) -> None:
        while not self.online:
            await self._online.wait()

    async def get_status(self) -> int:
        if not self.online:
            return NO_ANSWER
        if self._has(F.STATUS):
            return await self._live().number(R.GET_STATUS) & 0xFF
        return self._status

    async def set_status(self, status: int) -> None:
        connection = self._live()
        if status & ~self._status & Status.DRIVER_OK:
            await self._rings.start(connection, enable=bool(self._offered >> F_PROTOCOL_FEATURES & 1))
            if not connection.acknowledged:
                await connection.ask(R.GET_FEATURES)  # once this is answered, all of that was heard
        self._status = Status(status)
        if self._has(F.STATUS):
            await connection.tell(R.SET_STATUS, U64(status))

    async def reset(self) -> None:
        """Stop every ring: a back end that does not say that it did is hung up on."""
        connection = self._live()
        try:
            await self._rings.stop(connection)
            if self._has(F.STATUS):
                await connection.tell(R.SET_STATUS, U64(0))
            elif self._has(F.RESET_DEVICE) and self._status:
                await connection.tell(R.RESET_DEVICE)
        except ProbeError as exc:
            connection.end(str(exc))
            raise TransportLost(str(exc)) from None
        self._status = Status(0)

    async def get_features(self) -> int:
        self._offered = await self._live().number(R.GET_FEATURES)
        features, own = self._offered & ~NOT_THE_DEVICES, self._own()
        return features if own is None or not features else features & ~own.overrides | own.features

    async def finalize_features(self, features: int) -> None:
        mtu = None
        if (own := self._own()) is not None:
            if self._has(F.MTU) and (features & self._offered) >> F_NET_MTU & 1:
                mtu = own.mtu
            features &= ~own.overrides
            features |= 0 if mtu is None else 1 << F_NET_MTU
        if features >> 64:
            raise ProbeError(f"{self._socket.name}: vhost-user carries 64 features, and no {features:#x}")
        await self._live().tell(R.SET_FEATURES, U64(features | self._offered & 1 << F_PROTOCOL_FEATURES))
        if mtu is not None:
            try:
                await self._live().tell(R.NET_SET_MTU, U64(mtu))
            except ProbeError as exc:
                raise ProbeError(f"{exc}: an MTU of {mtu} bytes; give the device another mtu") from None

    # ConfigOps: configuration

    async def generation(self) -> int:
        self._live()
        return self._generation

    async def read_config(self, offset: int, size: int) -> bytes:
        """From the start on: there are back ends that know no other offset."""
        if (own := self._own()) is not None:
            return own.data[offset : offset + size].ljust(size, b"\0")
        self._check_config(offset + size)
        answer = await self._live().ask(R.GET_CONFIG, Config(0, ConfigFlag.WRITABLE, bytes(offset + size)))
        assert isinstance(answer, Config)
        if len(answer.data) != offset + size:
            raise ProbeError(f"{self._socket.name}: the back end has no device configuration of {offset + size} bytes")
        return answer.data[offset:]

    async def write_config(self, offset: int, data: bytes) -> None:
        self._check_config(offset + len(data))
        await self._live().tell(R.SET_CONFIG, Config(offset, ConfigFlag.WRITABLE, data))

    def _own(self) -> OwnConfig | None:
        """What stands in for the configuration space of a back end that has none."""
        return None if self._has(F.CONFIG) else self._socket.own_config

    def _check_config(self, end: int) -> None:
        if not self._has(F.CONFIG):
            raise ProbeError(
                f"{self._socket.name}: the back end has no configuration space: is it a device of that type?"
            )
        if end > MAX_CONFIG:
            raise ProbeError(f"{self._socket.name}: no device configuration of {end} bytes fits a message")

    # ConfigOps: queues

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        most = MAX_RINGS if self._queue_max is None else self._queue_max
        if len(specs) > most:
            raise ProbeError(f"{self._socket.name}: the back end has {most} queues, {len(specs)} needed")
        return self._rings.make(device.features, specs, self._broken)

    def _broken(self, index: int) -> None:
        """The back end says that it can't go on with a ring."""
        if self._device is not None and self._rings.started:
            self._status |= Status.NEEDS_RESET
            self._device.trouble = f"queue {index}: the back end can't go on with it"
            self._device.changed.set()

    def del_vqs(self) -> None:
        self._rings.free()


async def _serve(socket: UserSocket, virtio: VirtioBus, refuse: Callable[[str], None]) -> None:
    front = VhostUserFront(socket, virtio, refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.run)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await front.leave()


VHOST_USER = UserClient("vhost-user", _serve)
