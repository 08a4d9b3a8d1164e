"""The session of a front end: handlers of all messages, from the connection's start to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import attrs

from drivers.bus.vhost import VhostDevice
from drivers.carriers.vhost_user import FrontEndNet
from drivers.contracts.ipc import FdSocket, Handle, Ipc, Notifier, Unusable
from drivers.transports.vhost_user.constants import (
    AGREED_BY,
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    MAX_CONFIG,
    ONE_RING,
    RINGS_PER_UNIT,
    VRING_F_LOG,
    ConfigFlag,
    FrontendRequest,
    ProtocolFeature,
)
from drivers.transports.vhost_user.dirty import DirtyArea
from drivers.transports.vhost_user.inflight import InflightArea
from drivers.transports.vhost_user.memory import MAX_SLOTS
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, UserMessage, ack, parse, reply
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    Empty,
    Inflight,
    Log,
    MemTable,
    MessageRefused,
    Payload,
    SingleRegion,
    VringAddr,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.states import LEGAL, RING_LEGAL, RingState, SessionState
from drivers.transports.vhost_user.vrings import Vrings
from rings.features import RingFeature, mask
from rings.status import Status

__all__ = ["PROTOCOL_FEATURES", "Session"]

R, F = FrontendRequest, ProtocolFeature
T = TypeVar("T")
TRANSPORT_FEATURES = mask((F_LOG_ALL, F_PROTOCOL_FEATURES))
PROTOCOL_FEATURES = mask(
    (
        F.MQ,
        F.LOG_SHMFD,
        F.REPLY_ACK,
        F.BACKEND_REQ,
        F.CONFIG,
        F.INFLIGHT_SHMFD,
        F.RESET_DEVICE,
        F.CONFIGURE_MEM_SLOTS,
        F.STATUS,
    )
)
"""Protocol features of every device; network devices also have RARP and MTU."""
MAC_SIZE = 6
RING_MAX = 1024
"""Most descriptors of a ring, as in QEMU, unless the device has larger rings. vhost-user negotiates no size, and a
chain may use the whole ring: a batch of chains of 32768 descriptors takes seconds and would block all other tasks."""
LEGACY = "a legacy driver: VERSION_1 is missing; add disable-legacy=on to QEMU's -device"
Reply = tuple[Payload | None, Sequence[Handle]]
NO_REPLY: Reply = (None, ())


class Session:
    """One connection of a front end. Owns the handles that the front end passed: memory, events, the channel."""

    def __init__(self, device: VhostDevice, ipc: Ipc, on_trouble: Callable[[str], None]) -> None:
        """``on_trouble`` is called with each refusal that is acknowledged, because the front end may not report it."""
        self._device = device
        self._on_trouble = on_trouble
        self._ipc = ipc
        self._protocol_features = 0
        self._status = 0
        """Device status from the front end; the device keeps its own."""
        self.rings = Vrings(device, ipc)
        self.channel: FdSocket | None = None
        """Channel for the back end's own requests; None before SET_BACKEND_REQ_FD."""

    @property
    def state(self) -> SessionState:
        if self.rings.running:
            return SessionState.RUNNING
        return SessionState.FEATURES if self.rings.features else SessionState.NEW

    @property
    def _net(self) -> FrontEndNet | None:
        """The bound device, if it is a network device."""
        bound = self._device.bound
        return bound if bound is not None and isinstance(bound, FrontEndNet) else None

    def negotiated(self, feature: ProtocolFeature) -> bool:
        return bool(self._protocol_features >> feature & 1)

    async def serve(self, message: UserMessage) -> tuple[bytes, Sequence[Handle]] | None:
        """Handle a message. Returns the reply, if there is one, with the handles to pass and then close.

        Raises ProtocolError if the connection must end. The message keeps unused file descriptors.
        """
        kind = FRONTEND_MESSAGES.get(message.request)
        # The acknowledgement, if requested, replaces a reply without a body.
        no_body = kind is None or kind.answer in (None, Empty)
        acknowledge = message.need_reply and self.negotiated(F.REPLY_ACK) and no_body
        try:
            payload = parse(message, FRONTEND_MESSAGES)
            assert kind is not None
            self._check(R(message.request), payload)
            answer, handles = await self._HANDLERS[R(message.request)](self, payload, message)
        except MessageRefused as exc:
            if not acknowledge:
                raise
            self._on_trouble(f"refused: {exc}")
            return ack(message.request, good=False), ()
        if acknowledge:
            return ack(message.request, good=True), ()
        return (reply(message.request, answer), handles) if answer is not None else None

    def _check(self, request: FrontendRequest, payload: Any) -> None:
        """Raise MessageRefused if the request is not allowed in the current state."""
        kind = FRONTEND_MESSAGES[request]
        if request not in self._HANDLERS or (kind.needs is not None and not self.negotiated(kind.needs)):
            raise MessageRefused(f"{request.name}: not negotiated")
        if request not in LEGAL[self.state]:
            raise MessageRefused(f"{request.name}: not allowed while the session is {self.state.value}")
        if kind.ring:
            if payload.index >= len(self.rings):
                raise MessageRefused(f"{request.name}: ring {payload.index} of {len(self.rings)}")
            ring = self.rings[payload.index]
            if request not in RING_LEGAL[ring.state]:
                raise MessageRefused(f"{request.name}: not allowed while ring {ring.index} is {ring.state.value}")

    async def close(self) -> None:
        """Stop the rings and release everything that the front end passed."""
        await self.rings.close()
        net = self._net
        if net is not None and net.has_mtu:
            net.take_mtu(None)
        if self.channel is not None:
            self.channel.close()

    def _start_device(self) -> None:
        """Start the device if a ring is enabled and, if the front end uses SET_STATUS, DRIVER_OK is set.

        Some front ends negotiate STATUS but never set DRIVER, such as vhost-user-scsi of QEMU 7.2.
        """
        no_status = not self.negotiated(F.STATUS) or not self._status & Status.DRIVER
        if self.rings.any_live and (no_status or self._status & Status.DRIVER_OK):
            self.rings.driver_ok()

    # Messages

    async def _get_features(self, _: Empty, __: UserMessage) -> Reply:
        features = self._device.device_features | TRANSPORT_FEATURES
        if self._protocol_features:
            for bit, ways in AGREED_BY.get(self._device.device_id, {}).items():
                if not any(map(self.negotiated, ways)):
                    features &= ~(1 << bit)
        return U64(features), ()

    async def _set_features(self, payload: U64, _: UserMessage) -> Reply:
        # The user may disable features in the front end that other features need: drop those, too.
        features = self._device.table.prune(payload.value & ~TRANSPORT_FEATURES)
        logging = bool(payload.value >> F_LOG_ALL & 1)
        if self.state is SessionState.RUNNING and features != self.rings.features:
            raise MessageRefused("SET_FEATURES: can't change while rings are started")
        if not features >> RingFeature.VERSION_1 & 1:
            raise MessageRefused(LEGACY)
        if not self._device.acceptable(features):
            raise MessageRefused(f"SET_FEATURES: the device does not support {features:#x}")
        if logging and not self.negotiated(F.LOG_SHMFD):
            raise MessageRefused("SET_FEATURES: dirty logging was not negotiated")
        await self.rings.set_logging(logging)
        self._start_device()
        self.rings.features = features
        if not payload.value >> F_PROTOCOL_FEATURES & 1:
            await self.rings.enable_all(True)
        return NO_REPLY

    async def _set_owner(self, _: Empty, __: UserMessage) -> Reply:
        """Do nothing: every connection is a session."""
        return NO_REPLY

    async def _reset_owner(self, _: Empty, __: UserMessage) -> Reply:
        await self.rings.enable_all(False)
        return NO_REPLY

    async def _set_mem_table(self, payload: MemTable, message: UserMessage) -> Reply:
        rings = self.rings
        memory = rings.memory.map(payload.regions, message.handles)
        try:
            rings.check(memory)
        except MessageRefused:
            memory.close()
            raise
        async with rings.paused():
            rings.memory, old = memory, rings.memory
            old.close()
        return NO_REPLY

    async def _add_mem_reg(self, payload: SingleRegion, message: UserMessage) -> Reply:
        self.rings.check_region(payload.region)
        self.rings.memory.add(payload.region, message.handles[0])
        return NO_REPLY

    async def _rem_mem_reg(self, payload: SingleRegion, _: UserMessage) -> Reply:
        rings = self.rings
        region = rings.memory.find(payload.region)
        rings.check(rings.memory.without(region))
        async with rings.paused():
            rings.memory.remove(region)
        return NO_REPLY

    async def _get_max_mem_slots(self, _: Empty, __: UserMessage) -> Reply:
        return U64(MAX_SLOTS), ()

    async def _set_vring_num(self, payload: VringState, _: UserMessage) -> Reply:
        # A front end may use one size for all queues, also if the control queue's is smaller.
        num_max = max([RING_MAX, *(queue.max_num for queue in self._device.queues)])
        self.rings.set_num(self.rings[payload.index], payload.num, num_max)
        return NO_REPLY

    async def _set_vring_addr(self, payload: VringAddr, _: UserMessage) -> Reply:
        ring = self.rings[payload.index]
        if payload.flags & ~(VRING_F_LOG if self.negotiated(F.LOG_SHMFD) else 0):
            raise MessageRefused(f"SET_VRING_ADDR: flags {payload.flags:#x} were not negotiated")
        if ring.state is RingState.STOPPED:
            self.rings.set_addrs(ring, payload)
            return NO_REPLY
        assert ring.addrs is not None
        if attrs.evolve(payload, flags=ring.addrs.flags, log=ring.addrs.log) != ring.addrs:
            raise MessageRefused("SET_VRING_ADDR: can't change while the ring is started")
        await self.rings.set_ring_log(ring, payload)
        return NO_REPLY

    async def _set_vring_base(self, payload: VringState, _: UserMessage) -> Reply:
        self.rings.set_base(self.rings[payload.index], payload.num)
        return NO_REPLY

    async def _get_vring_base(self, payload: VringState, _: UserMessage) -> Reply:
        ring = self.rings[payload.index]
        await self.rings.stop(ring)
        return VringState(ring.index, ring.base), ()

    async def _set_vring_kick(self, payload: VringFd, message: UserMessage) -> Reply:
        ring, watch = self.rings[payload.index], None
        if payload.has_fd:
            watch = self._take(message, lambda handle: self._ipc.watch(handle, partial(self._device.kick, ring.index)))
        try:
            if ring.state is RingState.STOPPED:
                ring.polled = not payload.has_fd
                await self.rings.start(ring)
                self._start_device()
            elif ring.polled is payload.has_fd:
                async with self.rings.paused():  # the device's queue switches between waiting and polling
                    ring.polled = not payload.has_fd
        except BaseException:
            if watch is not None:
                watch.close()
            raise
        if ring.kick is not None:
            ring.kick.close()
        ring.kick = watch
        return NO_REPLY

    async def _set_vring_call(self, payload: VringFd, message: UserMessage) -> Reply:
        ring = self.rings[payload.index]
        ring.call = self._take_notifier(payload, message, ring.call)
        if ring.call is not None and ring.state is RingState.STARTED:
            ring.call.notify()  # for calls without a notifier before
        return NO_REPLY

    async def _set_vring_err(self, payload: VringFd, message: UserMessage) -> Reply:
        ring = self.rings[payload.index]
        ring.err = self._take_notifier(payload, message, ring.err)
        return NO_REPLY

    def _take_notifier(self, payload: VringFd, message: UserMessage, former: Notifier | None) -> Notifier | None:
        """Return the notifier that replaces ``former``, which is closed. Raises MessageRefused."""
        notifier = self._take(message, self._ipc.notifier) if payload.has_fd else None
        if former is not None:
            former.close()
        return notifier

    def _take(self, message: UserMessage, use: Callable[[Handle], T]) -> T:
        """Return the result of ``use`` for the message's handle. Raises MessageRefused; then the handle is closed."""
        try:
            return use(message.handles.pop())
        except Unusable as exc:
            raise MessageRefused(f"{R(message.request).name}: {exc}") from None

    def _offered(self) -> int:
        """Return the protocol features to offer.

        Without CONFIGURE_MEM_SLOTS for several queue pairs: QEMU 7.2 would add each region once per pair.
        """
        offered = PROTOCOL_FEATURES
        if self._device.device_id in RINGS_PER_UNIT and self._units() > 1:
            offered &= ~mask((F.CONFIGURE_MEM_SLOTS,))
        net = self._net
        return offered if net is None else offered | mask((F.RARP, F.MTU) if net.has_mtu else (F.RARP,))

    async def _get_protocol_features(self, _: Empty, __: UserMessage) -> Reply:
        return U64(self._offered()), ()

    async def _set_protocol_features(self, payload: U64, _: UserMessage) -> Reply:
        if unknown := payload.value & ~self._offered():
            raise MessageRefused(f"SET_PROTOCOL_FEATURES: {unknown:#x} was not offered")
        if self.state is SessionState.RUNNING and payload.value != self._protocol_features:
            raise MessageRefused("SET_PROTOCOL_FEATURES: can't change while rings are started")
        self._protocol_features = payload.value
        return NO_REPLY

    def _units(self) -> int:
        per_unit, _ = RINGS_PER_UNIT.get(self._device.device_id, ONE_RING)
        return len(self.rings) // per_unit

    async def _get_queue_num(self, _: Empty, __: UserMessage) -> Reply:
        return U64(self._units()), ()

    async def _set_vring_enable(self, payload: VringState, _: UserMessage) -> Reply:
        if payload.num > 1:
            raise MessageRefused(f"SET_VRING_ENABLE: {payload.num} for ring {payload.index}: must be 0 or 1")
        await self.rings.enable(self.rings[payload.index], bool(payload.num))
        self._start_device()
        return NO_REPLY

    async def _set_backend_req_fd(self, _: Empty, message: UserMessage) -> Reply:
        channel = self._take(message, self._ipc.channel)
        if self.channel is not None:
            self.channel.close()
        self.channel = channel
        return NO_REPLY

    async def _get_config(self, payload: Config, _: UserMessage) -> Reply:
        size = len(payload.data)
        if payload.offset + size > MAX_CONFIG:
            return Config(payload.offset, payload.flags, b""), ()
        return Config(payload.offset, payload.flags, self._device.read_config(payload.offset, size)), ()

    async def _set_config(self, payload: Config, _: UserMessage) -> Reply:
        device, size = self._device, len(payload.data)
        if payload.flags not in tuple(ConfigFlag):
            raise MessageRefused(f"SET_CONFIG: flags {payload.flags:#x}")
        if payload.offset + size > len(device.config):
            raise MessageRefused(f"SET_CONFIG: {size} bytes at {payload.offset} of {len(device.config)}")
        device.write_config(payload.offset, payload.data)
        if device.read_config(payload.offset, size) != payload.data:
            raise MessageRefused(f"SET_CONFIG: {size} bytes at {payload.offset} are read-only")
        return NO_REPLY

    async def _set_log_base(self, payload: Log, message: UserMessage) -> Reply:
        area = DirtyArea.take(self._ipc, payload, message.handles[0], self.rings.dirty.notify)
        await self.rings.set_log_area(area)
        self._start_device()
        return Empty(), ()

    async def _set_log_fd(self, _: Empty, message: UserMessage) -> Reply:
        self.rings.dirty.set_event(self._take(message, self._ipc.notifier))
        return NO_REPLY

    async def _send_rarp(self, payload: U64, _: UserMessage) -> Reply:
        mac = payload.emit()[:MAC_SIZE]
        if mac[0] & 1 or not any(mac):
            raise MessageRefused(f"SEND_RARP: {mac.hex(':')} is no unicast address")
        if self._net is not None:
            self._net.send_rarp(mac)
        return NO_REPLY

    async def _net_set_mtu(self, payload: U64, _: UserMessage) -> Reply:
        net = self._net
        if net is not None and net.has_mtu:
            try:
                net.take_mtu(payload.value)
            except ValueError as exc:
                raise MessageRefused(f"NET_SET_MTU: {payload.value} bytes: {exc}") from None
        return NO_REPLY

    async def _get_inflight_fd(self, payload: Inflight, _: UserMessage) -> Reply:
        inflight, handle = InflightArea.make(self._ipc, payload, len(self.rings), self.rings.formats)
        return inflight, (handle,)

    async def _set_inflight_fd(self, payload: Inflight, message: UserMessage) -> Reply:
        rings = self.rings
        area = InflightArea.take(self._ipc, payload, message.handles[0], len(rings), rings.formats)
        if rings.inflight is not None:
            rings.inflight.close()
        rings.inflight = area
        return NO_REPLY

    async def _reset_device_message(self, _: Empty, __: UserMessage) -> Reply:
        await self._reset()
        await self.rings.enable_all(False)
        return NO_REPLY

    async def _reset(self) -> None:
        await self.rings.stop_all()
        await self.rings.set_logging(False)
        self.rings.features = self._status = 0

    async def _set_status(self, payload: U64, _: UserMessage) -> Reply:
        if payload.value > 0xFF:
            raise MessageRefused(f"SET_STATUS: {payload.value:#x}: must have 8 bits")
        if not payload.value:
            await self._reset()
        elif payload.value & Status.FEATURES_OK and not self.rings.features:
            raise MessageRefused("SET_STATUS: FEATURES_OK without features")
        self._status = payload.value
        self._start_device()
        return NO_REPLY

    async def _get_status(self, _: Empty, __: UserMessage) -> Reply:
        return U64(self._status | int(self._device.status & Status.NEEDS_RESET)), ()

    _HANDLERS: ClassVar[Mapping[FrontendRequest, Callable[[Session, Any, UserMessage], Awaitable[Reply]]]] = {
        R.GET_FEATURES: _get_features,
        R.SET_FEATURES: _set_features,
        R.SET_OWNER: _set_owner,
        R.RESET_OWNER: _reset_owner,
        R.SET_MEM_TABLE: _set_mem_table,
        R.SET_LOG_BASE: _set_log_base,
        R.SET_LOG_FD: _set_log_fd,
        R.SEND_RARP: _send_rarp,
        R.NET_SET_MTU: _net_set_mtu,
        R.SET_VRING_NUM: _set_vring_num,
        R.SET_VRING_ADDR: _set_vring_addr,
        R.SET_VRING_BASE: _set_vring_base,
        R.GET_VRING_BASE: _get_vring_base,
        R.SET_VRING_KICK: _set_vring_kick,
        R.SET_VRING_CALL: _set_vring_call,
        R.SET_VRING_ERR: _set_vring_err,
        R.GET_PROTOCOL_FEATURES: _get_protocol_features,
        R.SET_PROTOCOL_FEATURES: _set_protocol_features,
        R.GET_QUEUE_NUM: _get_queue_num,
        R.SET_VRING_ENABLE: _set_vring_enable,
        R.SET_BACKEND_REQ_FD: _set_backend_req_fd,
        R.GET_CONFIG: _get_config,
        R.SET_CONFIG: _set_config,
        R.GET_INFLIGHT_FD: _get_inflight_fd,
        R.SET_INFLIGHT_FD: _set_inflight_fd,
        R.RESET_DEVICE: _reset_device_message,
        R.GET_MAX_MEM_SLOTS: _get_max_mem_slots,
        R.ADD_MEM_REG: _add_mem_reg,
        R.REM_MEM_REG: _rem_mem_reg,
        R.SET_STATUS: _set_status,
        R.GET_STATUS: _get_status,
    }
