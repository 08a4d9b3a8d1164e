"""virtio-net: the driver's side of a network device, between its virtqueues and a packet port."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import trio

from drivers.buffers import BufferBlock
from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, CHUNK, NetFlow, Traffic
from drivers.devices.net.header import HeaderRules
from drivers.devices.net.layout import (
    LINK_UP,
    MIN_MTU,
    SUPPORTED,
    TABLE,
    ConfigField,
    NetFeature,
    buffer_size,
    device_offloads,
    driver_offloads,
    offload_features,
)
from drivers.errors import PortGone, ProbeError
from drivers.hw import DmaMemory
from drivers.model import MatchId, present
from drivers.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, PacketPort
from drivers.pump import Need, pump
from drivers.virtio import DriverQueue, QueueSpec, VirtioDevice
from rings.chain import copy_out, skip, total
from rings.ids import DeviceId
from rings.memory import Addr

__all__ = ["NetSettings", "VirtioNet"]

HEAD = HEADER_SIZE + ETH_HLEN


@attrs.define(eq=False)
class NetSettings:
    """What one virtio-net device is plugged into, and how its driver is to use it."""

    port: PacketPort
    features: int = SUPPORTED
    """Bits to accept where offered."""
    queue_size: int | None = None
    """Largest ring to use, in descriptors; None takes what the device has."""
    rx_buffer: int | None = None
    """Bytes of a receive buffer under MRG_RXBUF; None makes every buffer hold any frame."""
    received: Traffic = attrs.field(factory=Traffic)
    sent: Traffic = attrs.field(factory=Traffic)


class Slots(BufferBlock):
    """Buffers for frames, in the two forms that flows need at once: for a port, and for a ring."""

    def __init__(self, dma: DmaMemory, count: int, size: int) -> None:
        super().__init__(dma, count, size)
        self.segs = [[view] for view in self.views]
        self.whole = [(addr, size, slot) for slot, addr in enumerate(self.addrs)]


class Transmit(NetFlow[DriverQueue]):
    """From the port to the device. Used buffers are taken back only when free ones run short."""

    reads = True

    def __init__(self, queue: DriverQueue, settings: NetSettings, slots: Slots, gone: Callable[[PortGone], None]):
        super().__init__(queue, settings.port, settings.sent, gone)
        self._slots = slots
        self._free = list(range(len(slots.addrs)))

    def move(self) -> tuple[int, Need]:
        free, ring = self._free, self.queue.ring
        if len(free) < BUDGET:
            free.extend(slot for slot, _ in ring.get_each(ring.num))
        if not free:
            return 0, Need.QUEUE
        recv, segs, addrs = self.port.recv_into, self._slots.segs, self._slots.addrs
        buffers: list[tuple[Addr, int, int]] = []
        size = 0
        try:
            while size < BUDGET_BYTES and len(buffers) < BUDGET and free:
                slot = free[-1]
                got = recv(segs[slot])
                if not got:
                    return len(buffers), Need.SOURCE
                free.pop()
                buffers.append((addrs[slot], got, slot))
                size += got
            return len(buffers), Need.TURN
        finally:
            ring.add_each(buffers, False)
            self.traffic.packets += len(buffers)
            self.traffic.bytes += size - len(buffers) * HEADER_SIZE


class Receive(NetFlow[DriverQueue]):
    """From the device to the port; every buffer goes straight back into the ring."""

    def __init__(
        self,
        queue: DriverQueue,
        settings: NetSettings,
        slots: Slots,
        rules: HeaderRules,
        mergeable: bool,
        gone: Callable[[PortGone], None],
    ) -> None:
        super().__init__(queue, settings.port, settings.received, gone)
        self._slots = slots
        self._rules = rules
        self._mergeable = mergeable
        self._taken: list[tuple[int, int]] = []
        """Used buffers (slot, bytes) that were got from the ring, and not dealt with yet."""

    def fill(self) -> None:
        """Add every buffer there is; the device is shown them once it is live."""
        self.queue.ring.add_each(self._slots.whole, True)

    def move(self) -> tuple[int, Need]:
        ring, traffic, rules, port = self.queue.ring, self.traffic, self._rules, self.port
        send, known, segs, mergeable = port.send, rules.known, self._slots.segs, self._mergeable
        moved = size = 0
        while moved < BUDGET and size < BUDGET_BYTES:
            taken = self._taken or ring.get_each(min(CHUNK, BUDGET - moved))
            if not taken:
                return moved, Need.QUEUE
            at = passed = octets = 0
            try:
                while at < len(taken):
                    slot, got = taken[at]
                    seg = segs[slot][0]
                    head, rest, count = bytes(seg[: min(HEAD, got)]), [seg[HEAD:got]], 1
                    low, high, out, spread = known.get(head) or rules.judge(head)
                    if spread > 1 and mergeable:
                        parts = self._parts(taken, at, spread)
                        got, count = total(parts), len(parts)
                        head, rest = copy_out(parts, HEAD), skip(parts, HEAD)
                        low, high, out, _ = known.get(head) or rules.judge(head)
                        if count < spread:
                            # The rest of the frame should have been shown together with its start.
                            traffic.drop("num_buffers")
                            at += count
                            continue
                    if not low <= got <= high:
                        traffic.drop(rules.cause(head, got))
                    elif send(out, rest):
                        passed += 1
                        octets += got - HEADER_SIZE
                    else:
                        return moved + at, Need.SINK
                    at += count
            finally:
                whole = self._slots.whole
                ring.add_each([whole[slot] for slot, _ in taken[:at]], True)
                self._taken = taken[at:]
                traffic.packets += passed
                traffic.bytes += octets
            moved += at
            size += octets
        return moved, Need.TURN

    def _parts(self, taken: list[tuple[int, int]], at: int, count: int) -> list[memoryview]:
        """The ``count`` parts of the frame that starts at ``taken[at]``; fewer where the device showed fewer."""
        missing = at + count - len(taken)
        if missing > 0:
            taken += self.queue.ring.get_each(missing)
        return [self._slots.segs[slot][0][:got] for slot, got in taken[at : at + count]]


class BoundNet:
    """One live virtio-net device."""

    def __init__(self, device: VirtioDevice, settings: NetSettings, mac: bytes, mtu: int | None) -> None:
        self._device = device
        self._settings = settings
        self._mac = mac
        self._mtu = mtu
        self._slots: list[Slots] = []
        self._flows: list[NetFlow[DriverQueue]] = []

    async def set_up(self) -> None:
        """Queues and buffers; nobody is told of a buffer before DRIVER_OK (section 3.1.1)."""
        device, settings = self._device, self._settings
        specs = [
            QueueSpec("receiveq1", settings.queue_size),
            QueueSpec("transmitq1", settings.queue_size, delayed=True),
        ]
        receive, transmit = await device.find_vqs(specs)
        mergeable = device.has(NetFeature.MRG_RXBUF)
        incoming, outgoing = device_offloads(device.features, any), driver_offloads(device.features)
        size = buffer_size(gso=incoming.gso, mtu=self._mtu)
        if mergeable and settings.rx_buffer is not None:
            size = max(settings.rx_buffer, HEAD)
        rx = Slots(device.ops.dma, receive.ring.num, size)
        self._slots.append(rx)
        tx = Slots(device.ops.dma, transmit.ring.num, buffer_size(gso=outgoing.gso, mtu=self._mtu))
        self._slots.append(tx)
        receiver = Receive(receive, settings, rx, HeaderRules(incoming, self._mtu), mergeable, self._gone)
        receiver.fill()
        self._flows = [receiver, Transmit(transmit, settings, tx, self._gone)]

    def _gone(self, error: PortGone) -> None:
        self._settings.port.stop()

    async def run(self) -> None:
        port = self._settings.port
        offloads = driver_offloads(self._device.features) & port.caps
        try:
            await port.start(mac=self._mac, offloads=offloads, mtu=self._mtu)
        except PortGone:
            return
        try:
            await self.config_changed()
            async with trio.open_nursery() as nursery:
                for flow in self._flows:
                    nursery.start_soon(partial(pump, in_place=True, source=flow.source), flow)
        finally:
            port.stop()

    async def config_changed(self) -> None:
        up = True
        if self._device.has(NetFeature.STATUS):
            up = bool(await _field(self._device, ConfigField.STATUS) & LINK_UP)
        self._settings.port.set_carrier(up)

    def close(self) -> None:
        for slots in self._slots:
            slots.close()
        self._slots.clear()


class VirtioNet:
    """The driver; ``settings_for`` says what a device is plugged into, None while it is not there yet."""

    name = "virtio_net"
    id_table = (MatchId(DeviceId.NET),)
    table = TABLE

    def __init__(self, settings_for: Callable[[VirtioDevice], NetSettings | None]) -> None:
        self._settings_for = settings_for

    def _settings(self, device: VirtioDevice) -> NetSettings:
        return present(self._settings_for(device), device, "no port to plug into yet")

    def features(self, device: VirtioDevice) -> int:
        settings = self._settings(device)
        # What the device leaves undone our port has to finish; what we leave undone is the device's to refuse.
        able = offload_features(settings.port.caps, from_driver=False)
        return settings.features & ~(offload_features(ALL_OFFLOADS, from_driver=False) & ~able)

    async def probe(self, device: VirtioDevice) -> BoundNet:
        mtu = None
        if device.has(NetFeature.MTU):
            mtu = await _field(device, ConfigField.MTU)
            if mtu < MIN_MTU:
                raise ProbeError(f"{device.name}: the device reports an MTU of {mtu}; it must be at least {MIN_MTU}")
        mac = _local_mac(device.name)
        if device.has(NetFeature.MAC):
            mac = await device.read_config(*ConfigField.MAC.value)
            if mac[0] & 1 or not any(mac):
                raise ProbeError(f"{device.name}: the device reports {mac.hex(':')}, which is no unicast MAC address")
        bound = BoundNet(device, self._settings(device), mac, mtu)
        try:
            await bound.set_up()
        except BaseException:
            bound.close()
            raise
        return bound


async def _field(device: VirtioDevice, field: ConfigField) -> int:
    return int.from_bytes(await device.read_config(*field.value), "little")


def _local_mac(name: str) -> bytes:
    """A locally administered address for a device that has none; the same name gives the same one."""
    return b"\x02" + name.encode()[-5:].rjust(5, b"\0")
