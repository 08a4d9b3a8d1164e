"""vhost_rpmsg: the device. It has no buffers: messages are copied straight to and from the driver's."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from drivers.bus.vhost import DeviceQueue, OfferedQueue, VhostBound, VhostDevice
from drivers.devices.rpmsg.bus import RpmsgBus
from drivers.devices.rpmsg.flow import BUDGET, RpmsgInFlow, RpmsgOutFlow
from drivers.devices.rpmsg.layout import (
    DEFAULT_BUFFER,
    DEFAULT_FEATURES,
    HEADER,
    HEADER_SIZE,
    MAX_BUFFER,
    SUPPORTED,
    TABLE,
    RpmsgConfig,
    RpmsgFeature,
)
from drivers.errors import ProbeError
from drivers.flow.pump import AGAIN, QUEUE, Wait, pump
from rings.chain import copy_in, copy_out, total

__all__ = ["BoundVhostRpmsg", "RpmsgPlug"]


@attrs.define(eq=False)
class RpmsgPlug:
    """Bus and settings of one vhost_rpmsg device."""

    bus: RpmsgBus
    features: int = DEFAULT_FEATURES
    queue_size: int = 256
    """Buffers per direction."""
    config: RpmsgConfig = attrs.field(factory=RpmsgConfig)
    """Buffer sizes in bytes."""

    def join(self, device: VhostDevice) -> BoundVhostRpmsg:
        """Return ``device`` bound to the bus."""
        return BoundVhostRpmsg(device, self)


class VhostRpmsgToDriver(RpmsgOutFlow[DeviceQueue]):
    """Queue 0: messages for the driver, into its receive buffers."""

    def room(self) -> int:
        # The number of posted buffers is known only after they were taken: until then, assume a full ring.
        return self.queue.num

    def move(self) -> tuple[int, Wait]:
        ring, bus = self.queue.ring, self._bus
        outbox, traffic = bus.outbox, bus.sent
        if ring is None:
            return 0, QUEUE
        chains = ring.getdescs(min(len(outbox), BUDGET)) if outbox else []
        done = []
        for head, readable, segs in chains:
            src, dst, data = outbox.popleft()
            size = HEADER_SIZE + len(data)
            message = HEADER.pack(src, dst, 0, len(data), 0) + data
            if readable:
                written = 0  # not a receive buffer
            elif len(segs) == 1 and len(segs[0]) >= size:
                segs[0][:size] = message
                written = size
            else:
                written = copy_in(segs, message) if total(segs) >= size else 0
            done.append((head, written))
            if written:
                traffic.packets += 1
                traffic.bytes += len(data)
            else:
                traffic.drop("buffer_short")
        if done:
            ring.complete_each(done)
        bus.make_room()
        if not outbox:
            return len(done), self._message
        return len(done), AGAIN if len(done) == BUDGET else QUEUE


class VhostRpmsgFromDriver(RpmsgInFlow[DeviceQueue]):
    """Queue 1: messages from the driver."""

    def move(self) -> tuple[int, Wait]:
        ring, bus, take = self.queue.ring, self._bus, self._take
        if ring is None:
            return 0, QUEUE
        chains = ring.getdescs(BUDGET)
        wait: Wait = AGAIN if len(chains) == BUDGET else QUEUE
        done: list[tuple[int, int]] = []
        for head, segs, writable in chains:
            if writable:
                bus.drop("writable")
            elif len(segs) == 1:
                if not take(segs[0], len(segs[0])):
                    wait = self._room
            elif not self._gather(segs):
                wait = self._room
            if wait is self._room:
                break
            done.append((head, 0))
        ring.complete_each(done)
        ring.abandon(len(chains) - len(done))
        return len(done), wait

    def _gather(self, segs: list[memoryview]) -> bool:
        """Deliver a message in several pieces, or in none; copies at most `MAX_BUFFER` bytes."""
        whole = copy_out(segs, MAX_BUFFER)
        return self._take(memoryview(whole), len(whole))


class BoundVhostRpmsg(VhostBound[RpmsgPlug]):
    """One vhost_rpmsg device with its plug. All fields of its configuration are read-only."""

    def offer(self) -> None:
        """Offer the device. Raises ProbeError for invalid buffer sizes."""
        plug, config = self.plug, self.plug.config
        if not config.valid:
            raise ProbeError(f"{self.device.name}: buffers of {config.to_driver} and {config.to_device} bytes")
        queues = [OfferedQueue(name, plug.queue_size) for name in ("receiveq", "transmitq")]
        self.device.offer(TABLE, plug.features & SUPPORTED, queues, config.emit())

    async def run(self) -> None:
        device, bus = self.device, self.plug.bus
        size = self.plug.config.to_driver if device.has(RpmsgFeature.BUFSZ) else DEFAULT_BUFFER
        receive, transmit = device.queues
        to_driver, from_driver = VhostRpmsgToDriver(receive, bus), VhostRpmsgFromDriver(transmit, bus)
        bus.start(device.features, size - HEADER_SIZE, to_driver)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive.serve_each_ring, partial(pump, to_driver, device.settle, in_place=True))
                nursery.start_soon(transmit.serve_each_ring, partial(pump, from_driver, device.settle))
        finally:
            bus.stop()
