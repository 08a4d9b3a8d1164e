"""virtio-net: the driver's side of a network device, between its virtqueues and a packet port."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import trio

from drivers.devices.net.flow import BUDGET, BUDGET_BYTES, NetFlow, Traffic
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
from drivers.errors import PortGone, ProbeDeferred, ProbeError
from drivers.hw import DmaBuffer, DmaMemory
from drivers.model import MatchId
from drivers.ports import ALL_OFFLOADS, ETH_HLEN, HEADER_SIZE, PacketPort
from drivers.pump import Need, pump
from drivers.virtio import DriverQueue, QueueSpec, VirtioDevice
from rings.chain import copy_out, skip
from rings.ids import DeviceId
from rings.memory import Addr

__all__ = ["NetSettings", "VirtioNet"]

HEAD = HEADER_SIZE + ETH_HLEN
ALIGN = 4096


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


class Slots:
    """A block of equal buffers in this host's memory, each seen through one view that lasts until `close`."""

    def __init__(self, dma: DmaMemory, count: int, size: int) -> None:
        self._dma = dma
        pitch = -(-size // 64) * 64
        self._block: DmaBuffer = dma.alloc(count * pitch, ALIGN)
        self.addrs = [Addr(self._block.addr + i * pitch) for i in range(count)]
        self.segs = [[dma.pin(addr, size, "B")] for addr in self.addrs]
        self.whole = [((addr, size),) for addr in self.addrs]
        self.size = size

    def close(self) -> None:
        for (view,) in self.segs:
            self._dma.unpin(view)
        self._dma.free(self._block)


class Transmit(NetFlow[DriverQueue]):
    """From the port to the device. Used buffers are taken back only when free ones run short."""

    def __init__(self, queue: DriverQueue, settings: NetSettings, slots: Slots, gone: Callable[[PortGone], None]):
        super().__init__(queue, settings.port, settings.sent, gone)
        self._slots = slots
        self._free = list(range(len(slots.addrs)))

    def move(self) -> tuple[int, Need]:
        free, ring = self._free, self.queue.ring
        if len(free) < BUDGET:
            get = ring.get
            while (done := get()) is not None:
                free.append(done[0])
        if not free:
            return 0, Need.QUEUE
        recv, add = self.port.recv_into, ring.add
        segs, addrs = self._slots.segs, self._slots.addrs
        moved = size = 0
        need = Need.TURN
        try:
            while moved < BUDGET and size < BUDGET_BYTES and free:
                slot = free[-1]
                got = recv(segs[slot])
                if not got:
                    need = Need.SOURCE
                    break
                free.pop()
                add(((addrs[slot], got),), (), slot)
                moved += 1
                size += got
        finally:
            self.traffic.packets += moved
            self.traffic.bytes += size - moved * HEADER_SIZE
        return moved, need


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
        self._waiting: tuple[bytes, list[memoryview], int, list[int]] | None = None

    def fill(self) -> None:
        """Give the device every buffer there is."""
        for slot, whole in enumerate(self._slots.whole):
            self.queue.ring.add((), whole, slot)
        self.queue.ring.publish()

    def move(self) -> tuple[int, Need]:
        ring, traffic, rules = self.queue.ring, self.traffic, self._rules
        get, add, send, known = ring.get, ring.add, self.port.send, rules.known
        segs, whole, mergeable = self._slots.segs, self._slots.whole, self._mergeable
        moved = size = 0
        if self._waiting is not None:
            head, rest, got, slots = self._waiting
            if not send(head, rest):
                return 0, Need.SINK
            self._waiting = None
            self._done(slots, got)
            moved = 1
        while moved < BUDGET and size < BUDGET_BYTES:
            done = get()
            if done is None:
                return moved, Need.QUEUE
            moved += 1
            slot, got = done
            seg = segs[slot][0]
            head, rest, taken = bytes(seg[: min(HEAD, got)]), [seg[HEAD:got]], None
            low, high, out, count = known.get(head) or rules.judge(head)
            if count > 1 and mergeable:
                parts, got, taken = self._merge(slot, got, count)
                if not parts:
                    continue
                head, rest = copy_out(parts, HEAD), skip(parts, HEAD)
                low, high, out, _ = known.get(head) or rules.judge(head)
            if not low <= got <= high:
                traffic.drop(rules.cause(head, got))
            elif send(out, rest):
                traffic.packets += 1
                traffic.bytes += got - HEADER_SIZE
                size += got
            else:
                self._waiting = out, rest, got, taken or [slot]
                return moved - 1, Need.SINK
            if taken is None:
                add((), whole[slot], slot)
            else:
                for slot in taken:
                    add((), whole[slot], slot)
        return moved, Need.TURN

    def _merge(self, slot: int, got: int, count: int) -> tuple[list[memoryview], int, list[int]]:
        """The parts of a frame over ``count`` buffers, all of which the device has to show together."""
        parts, taken, total = [self._slots.segs[slot][0][:got]], [slot], got
        for _ in range(count - 1):
            done = self.queue.ring.get()
            if done is None or not done[1]:
                taken += [done[0]] if done is not None else []
                self.traffic.drop("num_buffers")
                for part in taken:
                    self.queue.ring.add((), self._slots.whole[part], part)
                return [], 0, []
            slot, got = done
            parts.append(self._slots.segs[slot][0][:got])
            taken.append(slot)
            total += got
        return parts, total, taken

    def _done(self, slots: Sequence[int], got: int) -> None:
        self.traffic.packets += 1
        self.traffic.bytes += got - HEADER_SIZE
        for slot in slots:
            self.queue.ring.add((), self._slots.whole[slot], slot)


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
        """Queues and buffers; the receive ring is filled before DRIVER_OK, and nobody is told (section 3.1.1)."""
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
                    nursery.start_soon(pump, flow)
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
        settings = self._settings_for(device)
        if settings is None:
            raise ProbeDeferred(f"{device.name}: no port to plug into yet")
        return settings

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
