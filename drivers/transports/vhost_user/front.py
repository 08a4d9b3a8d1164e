"""The driver's half: implements the virtio bus's operations as messages to a back end in another process.

The protocol has no registers. This half keeps the device status if the back end has none (STATUS). It starts a device's
rings at DRIVER_OK, and resets a device by stopping all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from drivers.bus.virtio import NO_ANSWER, DriverQueue, QueueSpec, VirtioBus, VirtioDevice
from drivers.carriers.vhost_user import OwnConfig, VhostUserClient, VhostUserSocket
from drivers.contracts.events import BackEndMoved
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

__all__ = ["PROTOCOL_FEATURES", "VHOST_USER_CLIENT", "VhostUserFront"]

R, F = FrontendRequest, ProtocolFeature
PROTOCOL_FEATURES = mask((F.MQ, F.REPLY_ACK, F.MTU, F.BACKEND_REQ, F.CONFIG, F.RESET_DEVICE, F.STATUS))
"""Protocol features to accept."""
TRANSPORT_FEATURES = 1 << F_PROTOCOL_FEATURES | 1 << F_LOG_ALL
ABSENT = 0.1
"""Seconds between two connection attempts while no back end listens."""
RETRY = 0.01, 1.0
"""Shortest and longest pause after a connection that ended, in seconds: it grows with connections that end at once."""
CHECK_INTERVAL, CHECK_TIMEOUT = 10.0, 20.0
"""Seconds between two liveness checks of a back end with started rings, and seconds that it may take to reply.
Requests wait for a stopped back end as for a disconnected one."""
LEAVE_TIMEOUT = 3.0
"""Seconds that a back end may take to stop the device when the driver's end closes. The host's memory is freed at the
same time, so a later back end can't harm a driver."""


class VhostUserFront:
    """`drivers.bus.virtio.ConfigOps` over vhost-user. The device appears with the first connection and outlives it."""

    def __init__(self, socket: VhostUserSocket, virtio: VirtioBus, refuse: Callable[[str], None]) -> None:
        """``refuse`` is called with the reason for a missing connection, and with "" once connected."""
        self.features = socket.ring_features
        self.dma: DmaMemory = socket.dma
        self._socket = socket
        self._virtio = virtio
        self._refuse = refuse
        self._device: VirtioDevice | None = None
        self._connection: BackEndConnection | None = None
        self._reporter = virtio.events.driver(socket.name)
        self._connections = 0
        self._online = Signal()
        self._scope = trio.CancelScope(shield=True)
        self._protocol_features = 0
        self._device_features = 0
        self._status = Status(0)
        self._generation = 0
        self._queue_max: int | None = None
        """Rings of the back end; None if it does not report them."""
        self._rings = FrontRings(socket)

    # Connections

    async def run(self) -> None:
        """Connect, and reconnect, until `leave`. Shielded: cancellation waits until the device has stopped."""
        shortest, longest = RETRY
        pause = shortest
        with self._scope:
            while True:
                try:
                    connected = await self._socket.connect()
                except TransportLost as exc:
                    self._refuse(str(exc))
                    await trio.sleep(ABSENT)
                    continue
                start = trio.current_time()
                with suppress(TransportLost):
                    await self._serve(BackEndConnection(self._socket.name, connected, self._reporter))
                if trio.current_time() - start > longest:
                    pause = shortest
                await trio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _serve(self, connection: BackEndConnection) -> None:
        """Serve one connection until it ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run, nursery.cancel_scope.cancel)
                try:
                    channel = await self._negotiate(connection)
                    if channel is not None:
                        nursery.start_soon(connection.serve_channel, channel, self._config_changed, self._refused)
                    self._connection = connection
                    nursery.start_soon(self._check_liveness, connection)
                    self._publish()
                except (ProbeError, TransportLost, Unusable) as exc:
                    connection.end(str(exc))
        finally:
            ended = connection.reason
            connection.end("the driver's end was closed")
            was_connected, self._connection = self._connection is not None, None
            self._rings.mark_dead()
            self._refuse(connection.reason)
            if was_connected and ended and not self._scope.cancel_called:  # what we leave is not lost
                self._reporter.lifecycle(BackEndMoved, False, ended, self._connections)
            if self._device is not None:
                if was_connected:
                    self._device.failures.append(connection.reason)
                self._device.changed.set()

    async def _check_liveness(self, connection: BackEndConnection) -> None:
        """Query a back end with started rings at intervals, and close the connection if it does not reply."""
        with suppress(TransportLost):
            while True:
                await trio.sleep(CHECK_INTERVAL)
                if self._rings.started:
                    await connection.query(R.GET_FEATURES, U64, patience=CHECK_TIMEOUT)

    async def _negotiate(self, connection: BackEndConnection) -> FdSocket | None:
        """Negotiate features, in QEMU's order. Returns the channel for the back end's own requests, or None."""
        self._protocol_features, self._generation, self._queue_max = 0, 0, None
        self._device_features = await connection.query_u64(R.GET_FEATURES)
        if self._device_features >> F_PROTOCOL_FEATURES & 1:
            self._protocol_features = await connection.query_u64(R.GET_PROTOCOL_FEATURES) & PROTOCOL_FEATURES
            await connection.send(R.SET_PROTOCOL_FEATURES, U64(self._protocol_features))
            connection.acknowledged = self._has(F.REPLY_ACK)
        if self._has(F.MQ):
            units = await connection.query_u64(R.GET_QUEUE_NUM)
            per_unit, uncounted = RINGS_PER_UNIT.get(self._socket.device_id, ONE_RING)
            self._queue_max = min(per_unit * units + uncounted, MAX_RINGS)
        channel = None
        if self._has(F.BACKEND_REQ):
            channel, peer = self._socket.ipc.make_channel()
            try:
                await connection.send(R.SET_BACKEND_REQ_FD, None, (peer,))
            except BaseException:
                channel.close()
                raise
            finally:
                peer.close()
        try:
            await connection.send(R.SET_OWNER)
        except BaseException:
            if channel is not None:
                channel.close()
            raise
        return channel

    def _publish(self) -> None:
        """Add the device to its bus, or bring up the existing one again."""
        self._refuse("")
        self._online.set()
        self._connections += 1
        self._reporter.lifecycle(BackEndMoved, True, "", self._connections)
        if self._device is None:
            socket = self._socket
            self._device = VirtioDevice(socket.device_id, socket.vendor_id, self, socket.name, self._reporter)
        self._virtio.renew_device(self._device)  # the back end may be another one, or restarted

    async def leave(self) -> None:
        """Remove the device from its bus, which stops it if the back end replies in time; then disconnect."""
        if self._connection is not None:
            self._connection.limit_wait(LEAVE_TIMEOUT)
        if self._device is not None:
            await self._virtio.discard_device(self._device)
        self._scope.cancel()

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self._protocol_features >> feature & 1)

    def _require_connection(self) -> BackEndConnection:
        """Return the open connection. Raises TransportLost if there is none."""
        if self._connection is None or self._connection.reason:
            raise TransportLost(f"{self._socket.name}: no connection to a back end")
        return self._connection

    def _config_changed(self) -> None:
        self._generation += 1
        if self._device is not None:
            self._device.interrupt()

    def _refused(self, why: str) -> None:
        """Record a refused request of the back end, once per reason."""
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
            return await self._require_connection().query_u64(R.GET_STATUS) & 0xFF
        return self._status

    async def set_status(self, status: int) -> None:
        connection = self._require_connection()
        if status & ~self._status & Status.DRIVER_OK:
            await self._rings.start(connection, enable=bool(self._device_features >> F_PROTOCOL_FEATURES & 1))
            if not connection.acknowledged:
                await connection.query_u64(R.GET_FEATURES)  # its reply confirms all messages before it
        self._status = Status(status)
        if self._has(F.STATUS):
            await connection.send(R.SET_STATUS, U64(status))

    async def reset(self) -> None:
        """Stop every ring; close the connection if the back end does not confirm."""
        connection = self._require_connection()
        try:
            await self._rings.stop(connection)
            if self._has(F.STATUS):
                await connection.send(R.SET_STATUS, U64(0))
            elif self._has(F.RESET_DEVICE) and self._status:
                await connection.send(R.RESET_DEVICE)
        except ProbeError as exc:
            connection.end(str(exc))
            raise TransportLost(str(exc)) from None
        self._status = Status(0)

    async def get_features(self) -> int:
        self._device_features = await self._require_connection().query_u64(R.GET_FEATURES)
        features, config = self._device_features & ~TRANSPORT_FEATURES, self._substitute_config()
        return features if config is None or not features else features & ~config.overrides | config.features

    async def finalize_features(self, features: int) -> None:
        mtu = None
        if (config := self._substitute_config()) is not None:
            if self._has(F.MTU) and (features & self._device_features) >> F_NET_MTU & 1:
                mtu = config.mtu
            features &= ~config.overrides
            features |= 0 if mtu is None else 1 << F_NET_MTU
        if features >> 64:
            raise ProbeError(f"{self._socket.name}: vhost-user has 64 feature bits; can't accept {features:#x}")
        await self._require_connection().send(
            R.SET_FEATURES, U64(features | self._device_features & 1 << F_PROTOCOL_FEATURES)
        )
        if mtu is not None:
            try:
                await self._require_connection().send(R.NET_SET_MTU, U64(mtu))
            except ProbeError as exc:
                raise ProbeError(f"{exc}: an MTU of {mtu} bytes; give the device another mtu") from None

    # ConfigOps: configuration

    async def generation(self) -> int:
        self._require_connection()
        return self._generation

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes at ``offset``. Requests start at 0, because some back ends support no other offset."""
        if (config := self._substitute_config()) is not None:
            return config.data[offset : offset + size].ljust(size, b"\0")
        self._check_config(offset + size)
        answer = await self._require_connection().query(
            R.GET_CONFIG, Config, Config(0, ConfigFlag.WRITABLE, bytes(offset + size))
        )
        if len(answer.data) != offset + size:
            raise ProbeError(f"{self._socket.name}: the back end has no device configuration of {offset + size} bytes")
        return answer.data[offset:]

    async def write_config(self, offset: int, data: bytes) -> None:
        self._check_config(offset + len(data))
        await self._require_connection().send(R.SET_CONFIG, Config(offset, ConfigFlag.WRITABLE, data))

    def _substitute_config(self) -> OwnConfig | None:
        """Return the substitute configuration for a back end without a configuration space, else None."""
        return None if self._has(F.CONFIG) else self._socket.own_config

    def _check_config(self, end: int) -> None:
        if not self._has(F.CONFIG):
            raise ProbeError(f"{self._socket.name}: the back end has no configuration space: check its device type")
        if end > MAX_CONFIG:
            raise ProbeError(f"{self._socket.name}: a device configuration of {end} bytes does not fit a message")

    # ConfigOps: queues

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        rings_max = MAX_RINGS if self._queue_max is None else self._queue_max
        if len(specs) > rings_max:
            raise ProbeError(f"{self._socket.name}: the back end has {rings_max} queues, {len(specs)} needed")
        return self._rings.make(device.features, specs, self._broken)

    def _broken(self, index: int) -> None:
        """Handle the back end's error event for a ring: the device needs a reset."""
        if self._device is not None and self._rings.started:
            self._status |= Status.NEEDS_RESET
            self._device.stop(f"{self._device.queues[index].name}: the back end reports an error")

    def del_vqs(self) -> None:
        self._rings.free()


async def _serve(socket: VhostUserSocket, virtio: VirtioBus, refuse: Callable[[str], None]) -> None:
    front = VhostUserFront(socket, virtio, refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.run)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await front.leave()


VHOST_USER_CLIENT = VhostUserClient("vhost-user", _serve)
