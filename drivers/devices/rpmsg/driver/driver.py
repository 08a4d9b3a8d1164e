"""virtio_rpmsg: the driver. It owns the buffers of both directions."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioBound, VirtioDevice
from drivers.devices.rpmsg.bus import RpmsgBus
from drivers.devices.rpmsg.flow import BUDGET, RpmsgInFlow, RpmsgOutFlow
from drivers.devices.rpmsg.layout import (
    CONFIG_SIZES,
    DEFAULT_FEATURES,
    HEADER,
    HEADER_SIZE,
    RpmsgConfig,
    RpmsgFeature,
)
from drivers.errors import ProbeError
from drivers.flow.pump import AGAIN, QUEUE, Wait, pump
from drivers.memory.buffers import BufferBlock, block_memory
from drivers.memory.vring import ring_memory

__all__ = ["BoundVirtioRpmsg", "RpmsgSettings", "host_memory"]


def host_memory(num: int, config: RpmsgConfig) -> int:
    """Return the maximum bytes of host memory that the driver allocates, with ``num`` buffers per direction."""
    return sum(ring_memory(num) + block_memory(num, size) for size in (config.to_driver, config.to_device))


@attrs.define(eq=False)
class RpmsgSettings:
    """Bus and settings of the driver for one rpmsg device."""

    bus: RpmsgBus
    features: int = DEFAULT_FEATURES
    """Feature bits to accept if offered."""
    queue_size: int | None = None
    """Maximum buffers per direction; None for the device's."""


class VirtioRpmsgTransmit(RpmsgOutFlow[DriverQueue]):
    """Queue 1. Used buffers are reclaimed before each batch. The driver requests notifications of them only while a
    sender waits."""

    def __init__(self, queue: DriverQueue, bus: RpmsgBus, buffers: BufferBlock) -> None:
        super().__init__(queue, bus)
        self._buffers = buffers
        self._free = list(range(len(buffers.addrs)))

    def room(self) -> int:
        if not self._free:
            # The device may have used buffers since: have the pump take them back in place, whatever it waits for.
            for signal in (self._outgoing, self.queue.signal):
                if signal.awaited:
                    signal.set()
        return len(self._free)

    def move(self) -> tuple[int, Wait]:
        bus, free, ring = self._bus, self._free, self.queue.ring
        outbox, traffic = bus.outbox, bus.sent
        free.extend(index for index, _ in ring.get_each(ring.num))
        views, addrs = self._buffers.views, self._buffers.addrs
        batch = []
        for _ in range(min(len(outbox), len(free), BUDGET)):
            src, dst, data = outbox.popleft()
            index, size = free.pop(), HEADER_SIZE + len(data)
            views[index][:size] = HEADER.pack(src, dst, 0, len(data), 0) + data
            batch.append((addrs[index], size, index))
            traffic.packets += 1
            traffic.bytes += size - HEADER_SIZE
        if batch:
            ring.add_each(batch, False)
        if free:
            bus.make_room()
        if outbox:
            return len(batch), AGAIN if free else QUEUE
        return len(batch), QUEUE if bus.waiting else self._message

    def notify_pump(self) -> None:
        if self._free:  # the last batch left room for waiting senders
            self.queue.signal.wake()


class VirtioRpmsgReceive(RpmsgInFlow[DriverQueue]):
    """Queue 0. Each buffer returns to the ring as soon as its message was delivered."""

    def __init__(self, queue: DriverQueue, bus: RpmsgBus, buffers: BufferBlock) -> None:
        super().__init__(queue, bus)
        self._buffers = buffers
        self._used: list[tuple[int, int]] = []  # (buffer, bytes written), the next one last

    def post(self) -> None:
        """Put all buffers into the ring; the pump publishes them once the device is live."""
        size = self._buffers.size
        self.queue.ring.add_each([(addr, size, index) for index, addr in enumerate(self._buffers.addrs)], True)

    def close(self) -> None:
        self._bus.drop("reset", len(self._used))

    def move(self) -> tuple[int, Wait]:
        ring, used, take = self.queue.ring, self._used, self._take
        views, addrs, size = self._buffers.views, self._buffers.addrs, self._buffers.size
        back = []
        if not used:
            used.extend(reversed(ring.get_each(BUDGET)))
        wait: Wait = AGAIN if len(used) == BUDGET else QUEUE
        while used:
            index, written = used[-1]
            if not take(views[index], written):
                wait = self._room
                break
            used.pop()
            back.append((addrs[index], size, index))
        if back:
            ring.add_each(back, True)
        return len(back), wait


class BoundVirtioRpmsg(VirtioBound[RpmsgSettings]):
    """One live virtio-rpmsg device. One that changes its configuration requests a reset."""

    _receive: VirtioRpmsgReceive
    _transmit: VirtioRpmsgTransmit

    def __init__(self, device: VirtioDevice, settings: RpmsgSettings) -> None:
        super().__init__(device, settings)
        self._config = RpmsgConfig()
        self._buffers: list[BufferBlock] = []

    async def set_up(self) -> None:
        device, settings = self.device, self.settings
        if device.has(RpmsgFeature.BUFSZ):
            self._config = config = RpmsgConfig.parse(await device.read_config(0, CONFIG_SIZES.size))
            if not config.valid:
                raise ProbeError(
                    f"{device.name}: the device reports buffers of {config.to_driver} and {config.to_device} bytes"
                )
        specs = [QueueSpec(name, settings.queue_size) for name in ("receiveq", "transmitq")]
        receive, transmit = await device.find_vqs(specs)
        for queue, size in ((receive, self._config.to_driver), (transmit, self._config.to_device)):
            self._buffers.append(BufferBlock(device.ops.dma, queue.ring.num, size))
        self._receive = VirtioRpmsgReceive(receive, settings.bus, self._buffers[0])
        self._transmit = VirtioRpmsgTransmit(transmit, settings.bus, self._buffers[1])
        self._receive.post()

    async def run(self) -> None:
        bus = self.settings.bus
        bus.start(self.device.features, self._config.to_device - HEADER_SIZE, self._transmit)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, self._receive)
                nursery.start_soon(partial(pump, self._transmit, in_place=True))
        finally:
            self._receive.close()
            bus.stop()

    def close(self) -> None:
        while self._buffers:
            self._buffers.pop().close()
