"""virtio-net: the driver, between its virtqueues and a packet port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import attrs
import trio

from drivers.bus.plug import Plug
from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioBound, VirtioDevice
from drivers.contracts.liveness import Liveness
from drivers.contracts.ports import ALL_OFFLOADS, PacketPort
from drivers.devices.net.driver.control import VirtioNetControlQueue, control_memory
from drivers.devices.net.driver.flows import FrameBuffers, VirtioNetReceive, VirtioNetTransmit
from drivers.devices.net.driver.station import HashLimits, NetRequest, Station
from drivers.devices.net.flow import NetFigures, NetFlow
from drivers.devices.net.hashing import HASH_TYPES, KEY_SIZE
from drivers.devices.net.header import HEAD, HeaderRules
from drivers.devices.net.layout import (
    ANNOUNCE,
    HASHED,
    LINK_UP,
    MIN_MTU,
    SEVERAL,
    SPEED_MAX,
    USUAL,
    Duplex,
    NetConfigField,
    NetFeature,
    buffer_size,
    device_offloads,
    driver_offloads,
    hash_room,
    offload_features,
    queue_names,
)
from drivers.devices.net.steering import TABLE_LENGTH
from drivers.errors import DriverError, FeatureMismatch, NeedsReset, PortGone, ProbeError, TransportLost
from drivers.flow.pump import Signal, pump
from drivers.memory.buffers import block_memory
from drivers.memory.vring import ring_memory
from rings.features import RingFeature

__all__ = ["BoundVirtioNet", "NetSettings", "buffer_sizes", "host_memory"]

PAIRS_MAX = 256
"""Maximum number of queue pairs: an interface has no more queues (MAX_TAP_QUEUES)."""
F = NetFeature


def buffer_sizes(features: int, mtu: int | None, rx_buffer: int | None) -> tuple[int, int]:
    """Return the bytes of a receive and of a transmit buffer under these features; ``rx_buffer`` needs MRG_RXBUF."""
    incoming, outgoing = device_offloads(features, any), driver_offloads(features)
    receive, transmit = (buffer_size(gso=offloads.gso, mtu=mtu) for offloads in (incoming, outgoing))
    if features >> F.MRG_RXBUF & 1 and rx_buffer is not None:
        receive = max(rx_buffer, HEAD)
    room = hash_room(features)
    return receive + room, transmit + room


def host_memory(features: int, mtu: int, num: int, pairs: int, rx_buffer: int | None) -> int:
    """Return the maximum bytes of host memory that the driver allocates, with all pairs in use."""
    names = queue_names(features, pairs)
    rings = sum(ring_memory(num, segments_of(name)) for name in names)
    blocks = sum(block_memory(num, size) for size in buffer_sizes(features, mtu, rx_buffer))
    return rings + (len(names) // 2) * blocks + control_memory(num)


def segments_of(queue: str) -> int:
    """Return the descriptors of the longest chain in the queue of this name."""
    return 1 + (queue == "controlq")


@attrs.define(eq=False)
class NetSettings(Plug["BoundVirtioNet"]):
    """Port and settings of the driver for one virtio-net device."""

    port: PacketPort
    features: int = USUAL
    """Feature bits to accept if offered."""
    queue_size: int | None = None
    """Maximum ring size in descriptors; None for the device's."""
    rx_buffer: int | None = None
    """Bytes of a receive buffer under MRG_RXBUF; None for buffers that hold any frame."""
    request: NetRequest = attrs.field(factory=NetRequest)
    """Requested settings, which `change` changes; kept across resets."""
    speed: int | None = attrs.field(init=False, default=None)
    """Speed that the device reports, in Mbit/s; None if unknown."""
    duplex: Duplex = attrs.field(init=False, default=Duplex.UNKNOWN)
    figures: NetFigures = attrs.field(factory=NetFigures)
    device_counts: Mapping[int, Mapping[str, int]] = attrs.field(init=False, factory=dict)
    """The device's own counters by index of the queue and by name, as of the last `ask_statistics`."""
    liveness: Liveness = attrs.field(init=False, factory=Liveness)
    """Whether frames cross: the port is live, and the device has the settings of the port and of its user."""

    def __attrs_post_init__(self) -> None:
        self.port.liveness.watch(self.update_liveness)

    def update_liveness(self) -> None:
        """Set `liveness` after a change of the port or of the bound driver."""
        self.liveness.set(self.port.liveness.live and self.bound is not None and self.bound.configured)

    async def change(self, request: NetRequest) -> None:
        """Change the device's settings, also for the time after resets.

        Raises CommandRefused if the device refuses them, NeedsReset or TransportLost if it does not answer; the
        previous request stays in force then.
        """
        if self.bound is None or self.bound.station is None:
            raise TransportLost("the device is not up")
        await self.bound.station.change(request)

    async def ask_statistics(self) -> None:
        """Ask the device for its counters, and set `device_counts`.

        Raises CommandRefused without DEVICE_STATS, NeedsReset or TransportLost if the device does not answer.
        """
        if self.bound is None or self.bound.station is None:
            raise TransportLost("the device is not up")
        self.device_counts = await self.bound.station.ask_statistics()

    async def resize(self, num: int | None) -> None:
        """Give each data queue in use a ring of at most ``num`` descriptors, also for the time after resets.

        The device is not reset. Frames that it has not taken yet, or that the port does not take, are dropped. Raises
        FeatureMismatch without RING_RESET, TransportLost if the device does not answer.
        """
        if self.bound is None or self.bound.station is None:
            raise TransportLost("the device is not up")
        await self.bound.resize(num)


L = TypeVar("L", VirtioNetReceive, VirtioNetTransmit)


class BoundVirtioNet(VirtioBound[NetSettings]):
    """One live virtio-net device."""

    def __init__(self, device: VirtioDevice, settings: NetSettings) -> None:
        super().__init__(device, settings)
        self._mac = _local_mac(device.name)
        self._mtu: int | None = None
        self._limits = HashLimits()
        self._most = 1
        """Number of queue pairs of the device."""
        self._buffers: dict[int, FrameBuffers] = {}
        """Buffers by index of the queue."""
        self._receive: list[VirtioNetReceive] = []
        self._transmit: list[VirtioNetTransmit] = []
        self._control: VirtioNetControlQueue | None = None
        self._nursery: trio.Nursery | None = None
        self._tasks: dict[NetFlow[DriverQueue], tuple[trio.CancelScope, trio.Event]] = {}
        """Scope and end of the tasks that serve the flows."""
        self._resizing = trio.Lock()
        self._announce_request = Signal()
        """Set when the device asks for an announcement."""
        self.station: Station | None = None
        """Settings of the device while it runs."""
        self.configured = False
        """Whether the device has had all settings since DRIVER_OK."""

    def flows(self, pair: int) -> tuple[VirtioNetTransmit, VirtioNetReceive] | None:
        """Return the flows of a queue pair; None if it has none."""
        return (self._transmit[pair], self._receive[pair]) if pair < len(self._transmit) else None

    # QueuePairs

    @property
    def max_pairs(self) -> int:
        return min(self._most, len(self.settings.port.queues))

    def prepare(self, count: int) -> None:
        self._add_pairs(count)

    def use(self, count: int) -> None:
        self.settings.port.set_queues(count)
        for i, flow in enumerate(self._transmit):
            flow.set_enabled(i < count)

    # From FEATURES_OK to reset

    def features(self) -> int:
        settings = self.settings
        # Our port has to finish what the device leaves undone; the device refuses what we may not leave undone.
        able = offload_features(settings.port.caps, from_driver=False)
        features = settings.features & ~(offload_features(ALL_OFFLOADS, from_driver=False) & ~able)
        if len(settings.port.queues) == 1:
            features &= ~SEVERAL
        if settings.request.reception.vlans is None and settings.port.state.vlans is None:
            features &= ~(1 << F.CTRL_VLAN)  # no VLANs are selected, so all have to pass
        return features

    async def set_up(self) -> None:
        await self._read_config()
        try:
            await self._set_up_queues()
        except MemoryError as exc:
            what = f"{self.device.name}: no memory for {self.max_pairs} queue pairs"
            raise ProbeError(f"{what} ({exc}); add memory to the host, or use smaller queues or fewer pairs") from None

    async def _read_config(self) -> None:
        """Read the fields that do not change while the device is up. Raises ProbeError for invalid ones."""
        device = self.device
        if device.has(F.MTU):
            self._mtu = mtu = await device.read_field(NetConfigField.MTU)
            if mtu < MIN_MTU:
                raise ProbeError(f"{device.name}: the device reports an MTU of {mtu}: must be at least {MIN_MTU}")
        if device.has(F.MAC):
            self._mac = mac = await device.read_config(*NetConfigField.MAC.value)
            if mac[0] & 1 or not any(mac):
                raise ProbeError(f"{device.name}: the device reports {mac.hex(':')}, which is no unicast MAC address")
        if device.features & SEVERAL:
            self._most = most = await device.read_field(NetConfigField.MAX_VIRTQUEUE_PAIRS)
            if not 1 <= most <= PAIRS_MAX:
                raise ProbeError(
                    f"{device.name}: the device reports {most} pairs of queues; 1 to {PAIRS_MAX} can be used"
                )

        if device.features & HASHED:
            self._limits = await self._read_hash_limits()

    async def _read_hash_limits(self) -> HashLimits:
        """Read the limits of a device that hashes frames. Raises ProbeError for those that no device may have."""
        device, table = self.device, 0
        if (size := await device.read_field(NetConfigField.RSS_MAX_KEY_SIZE)) < KEY_SIZE:
            raise ProbeError(f"{device.name}: the device reports RSS keys of {size} bytes: must be at least {KEY_SIZE}")
        if device.has(F.RSS):
            table = await device.read_field(NetConfigField.RSS_MAX_TABLE_LENGTH)
            if table < TABLE_LENGTH:
                what = f"an indirection table of {table} entries: must be at least {TABLE_LENGTH}"
                raise ProbeError(f"{device.name}: the device reports {what}")
        return HashLimits(table, await device.read_field(NetConfigField.SUPPORTED_HASH_TYPES) & HASH_TYPES)

    async def _set_up_queues(self) -> None:
        """Set up the queues, and buffers for the pairs in use. Raises MemoryError, ProbeError."""
        device, settings = self.device, self.settings
        specs = [
            QueueSpec(name, settings.queue_size, segments=segments_of(name), delayed=name.startswith("transmit"))
            for name in queue_names(device.features, self._most)
        ]
        queues = await device.find_vqs(specs)
        figures = settings.figures
        figures.grow(self._most)
        figures.control_index = None
        if device.has(F.CTRL_VQ):
            control = queues[-1]
            if control.ring.num < 2 and not device.has(RingFeature.INDIRECT_DESC):
                raise ProbeError(f"{device.name}: a control queue of one descriptor holds no command")
            self._control = VirtioNetControlQueue(control, device.ops.dma, figures.control)
            figures.control_index = control.index
        self._add_pairs(min(self.max_pairs, settings.request.pairs or self.max_pairs))

    def _add_pairs(self, count: int) -> None:
        """Add buffers and flows up to ``count`` pairs. Only the first pair is enabled now. Raises MemoryError."""
        for i in range(len(self._transmit), count):
            rx = self._block(2 * i)
            try:
                tx = self._block(2 * i + 1)
            except MemoryError:
                rx.close()
                raise
            self._buffers |= {2 * i: rx, 2 * i + 1: tx}
            self._receive.append(self._receiver(i))
            self._transmit.append(self._transmitter(i))
            self._transmit[-1].enabled = not i
            if self._nursery is not None:
                for flow in (self._receive[-1], self._transmit[-1]):
                    self._serve(self._nursery, flow)

    def _block(self, index: int) -> FrameBuffers:
        """Return new buffers for the queue with this index. Raises MemoryError."""
        device = self.device
        sizes = buffer_sizes(device.features, self._mtu, self.settings.rx_buffer)
        num, reports = device.queues[index].ring.num, device.has(F.HASH_REPORT)
        return FrameBuffers(device.ops.dma, num, sizes[index % 2], reports=reports)

    def _receiver(self, pair: int) -> VirtioNetReceive:
        """Return the flow of a receive queue, with its buffers in the ring."""
        device, settings = self.device, self.settings
        receiver = VirtioNetReceive(
            device.queues[2 * pair],
            settings.port.queues[pair],
            settings.figures.pairs[pair].received,
            self._buffers[2 * pair],
            HeaderRules(device_offloads(device.features, any), self._mtu, accept_data_valid=True),
            device.has(F.MRG_RXBUF),
            settings.port.caps,
            settings.figures.pairs[pair].reports,
        )
        receiver.fill()
        return receiver

    def _transmitter(self, pair: int) -> VirtioNetTransmit:
        settings, index = self.settings, 2 * pair + 1
        port, sent = settings.port.queues[pair], settings.figures.pairs[pair].sent
        exact = self.device.has(F.GUEST_HDRLEN)
        return VirtioNetTransmit(self.device.queues[index], port, sent, self._buffers[index], exact=exact)

    def _serve(self, nursery: trio.Nursery, flow: NetFlow[DriverQueue]) -> None:
        task = self._tasks[flow] = trio.CancelScope(), trio.Event()
        nursery.start_soon(self._report_errors, partial(self._pump, flow, *task))

    async def _pump(self, flow: NetFlow[DriverQueue], scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await pump(flow, in_place=True)
        finally:
            ended.set()

    async def resize(self, num: int | None) -> None:
        """See `NetSettings.resize`."""
        device = self.device
        if not device.has(RingFeature.RING_RESET):
            raise FeatureMismatch(f"{device.name}: its queues can't be resized: RING_RESET was not negotiated")
        async with self._resizing:
            self.settings.queue_size = num
            for pair in range(len(self._transmit)):
                await self._resize(self._receive, pair, self._receiver)
                await self._resize(self._transmit, pair, self._transmitter)

    async def _resize(self, flows: list[L], pair: int, make: Callable[[int], L]) -> None:
        """Reset a queue, take back what is in flight, and serve a new ring with buffers of its own."""
        former, queue = flows[pair], flows[pair].queue
        if former not in self._tasks:
            raise TransportLost(f"{self.device.name}: the device is being reset")
        scope, ended = self._tasks.pop(former)
        scope.cancel()
        # A caller that gives up half-way would leave the queue without a task, and without its coalescing.
        with trio.CancelScope(shield=True):
            try:
                await ended.wait()
                self._flow_nursery()
                await self.device.reset_queue(queue)
                nursery = self._flow_nursery()
                former.traffic.drop("queue_reset", former.take_back())
                queue.halt()
                self._buffers.pop(queue.index).close()
                await self.device.enable_queue(queue, self.settings.queue_size)
                self._buffers[queue.index] = self._block(queue.index)
                flow = flows[pair] = make(pair)
                flow.enabled = former.enabled
                self._serve(nursery, flow)
                if self.station is not None:
                    await self.station.queue_enabled(queue.index)
            except (DriverError, MemoryError) as exc:
                if self._nursery is not None:
                    self.device.stop(str(exc))
                raise TransportLost(str(exc)) from None

    def _flow_nursery(self) -> trio.Nursery:
        """Return the nursery of the flows. Raises TransportLost if the device was reset, which closes its rings."""
        if self._nursery is None:
            raise TransportLost(f"{self.device.name}: the device was reset")
        return self._nursery

    def _on_port_gone(self, error: PortGone) -> None:
        """Give up the device; its reset turns off the carrier at the other end."""
        self.settings.port.stop()
        self.device.unplug(str(error))

    async def run(self) -> None:
        settings, port, device = self.settings, self.settings.port, self.device
        offloads = driver_offloads(device.features) & port.caps
        try:
            port.set_queues(1)
            await port.start(mac=settings.request.mac or self._mac, offloads=offloads, mtu=self._mtu)
        except PortGone as exc:
            self._on_port_gone(exc)
            return
        self.station = Station(device, self._control, self._mac, self, settings, self._limits)
        settings.attach(self)
        try:
            await self.config_changed()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for flow in (*self._receive, *self._transmit):
                    self._serve(nursery, flow)
                if self._control is not None:
                    nursery.start_soon(pump, self._control)
                nursery.start_soon(self._report_errors, self._follow_interface)
                nursery.start_soon(self._report_errors, self._announce_on_request)
        finally:
            settings.detach()
            self._nursery = self.station = None
            port.stop()
            settings.update_liveness()

    async def _report_errors(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run ``step``, and report its error as one of the device."""
        try:
            await step()
        except PortGone as exc:
            self._on_port_gone(exc)
        except DriverError as exc:
            self.device.stop(str(exc))

    async def _follow_interface(self) -> None:
        """Bring the device to the interface's settings, now and at every change."""
        port, station = self.settings.port, self.station
        assert station is not None
        while True:
            state = port.state
            await station.follow()
            self.configured = True
            self.settings.update_liveness()
            await port.wait_state(state)

    async def config_changed(self) -> None:
        """Apply the status. Raises NeedsReset for a new MTU, which needs new buffers and another interface MTU."""
        device, settings = self.device, self.settings
        status = LINK_UP
        if device.has(F.STATUS):
            status = await device.read_field(NetConfigField.STATUS)
        if device.has(F.MTU) and (mtu := await device.read_field(NetConfigField.MTU)) != self._mtu:
            raise NeedsReset(f"{device.name}: the MTU changed from {self._mtu} to {mtu}")
        if device.has(F.SPEED_DUPLEX):
            speed, duplex = (
                await device.read_field(NetConfigField.SPEED),
                await device.read_field(NetConfigField.DUPLEX),
            )
            settings.speed = speed if speed <= SPEED_MAX else None
            settings.duplex = Duplex(duplex) if duplex in tuple(Duplex) else Duplex.UNKNOWN
        settings.port.set_link_mode(settings.speed, settings.duplex.full)
        settings.port.set_carrier(bool(status & LINK_UP))
        if status & ANNOUNCE and device.has(F.GUEST_ANNOUNCE):
            self._announce_request.set()

    async def _announce_on_request(self) -> None:
        """Send gratuitous ARP and unsolicited neighbour advertisements, then acknowledge with ANNOUNCE_ACK (section
        5.1.9.5.4)."""
        while True:
            await self._announce_request.wait()
            await self.settings.port.announce()
            if self.station is not None:
                await self.station.acknowledge()

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
        for buffers in self._buffers.values():
            buffers.close()
        self._buffers.clear()


def _local_mac(name: str) -> bytes:
    """Return a locally administered address, derived from ``name``, for a device without one."""
    return b"\x02" + name.encode()[-5:].rjust(5, b"\0")
