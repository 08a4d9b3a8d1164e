"""vhost_rpmsg: the device. It has no buffers: messages are copied straight to and from the driver's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import trio

from drivers.bus.model import MatchId, require
from drivers.bus.vhost import DeviceQueue, Joinable, VhostBound, VhostDevice
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
from drivers.flow.pump import Need, pump
from rings.chain import copy_in, copy_out, total
from rings.ids import DeviceId

__all__ = ["RpmsgPlug", "VhostRpmsg"]


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
        """Bind ``device`` to the bus. Raises ProbeError for invalid buffer sizes."""
        if not self.config.valid:
            raise ProbeError(f"{device.name}: buffers of {self.config.to_driver} and {self.config.to_device} bytes")
        bound = BoundVhostRpmsg(device, self)
        bound.offer()
        return bound


class VhostRpmsgToDriver(RpmsgOutFlow[DeviceQueue]):
    """Queue 0: messages for the driver, into its receive buffers."""

    def room(self) -> int:
        # The number of posted buffers is known only after they were taken: until then, assume a full ring.
        return self.queue.num

    def fill(self) -> tuple[int, Need]:
        ring, bus = self.queue.ring, self._bus
        outbox, traffic = bus.outbox, bus.sent
        if ring is None:
            return 0, Need.QUEUE
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
            return len(done), Need.SOURCE
        return len(done), Need.TURN if len(done) == BUDGET else Need.QUEUE


class VhostRpmsgFromDriver(RpmsgInFlow[DeviceQueue]):
    """Queue 1: messages from the driver."""

    def move(self) -> tuple[int, Need]:
        ring, bus, take = self.queue.ring, self._bus, self._take
        if ring is None:
            return 0, Need.QUEUE
        chains = ring.getdescs(BUDGET)
        need = Need.TURN if len(chains) == BUDGET else Need.QUEUE
        done: list[tuple[int, int]] = []
        for head, segs, writable in chains:
            if writable:
                bus.drop("writable")
            elif len(segs) == 1:
                if not take(segs[0], len(segs[0])):
                    need = Need.SINK
            elif not self._gather(segs):
                need = Need.SINK
            if need is Need.SINK:
                break
            done.append((head, 0))
        ring.complete_each(done)
        ring.abandon(len(chains) - len(done))
        return len(done), need

    def _gather(self, segs: list[memoryview]) -> bool:
        """Deliver a message in several pieces, or in none; copies at most `MAX_BUFFER` bytes."""
        whole = copy_out(segs, MAX_BUFFER)
        return self._take(memoryview(whole), len(whole))


class BoundVhostRpmsg:
    """One vhost_rpmsg device with its plug."""

    net = None

    def __init__(self, device: VhostDevice, plug: RpmsgPlug) -> None:
        self._device = device
        self._plug = plug

    def offer(self) -> None:
        """Offer features, queues and configuration to the driver."""
        plug = self._plug
        queues = [(name, plug.queue_size) for name in ("receiveq", "transmitq")]
        self._device.offer(TABLE, plug.features & SUPPORTED, queues, plug.config.emit())

    async def run(self) -> None:
        device, bus = self._device, self._plug.bus
        sized = device.features >> RpmsgFeature.BUFSZ & 1
        size = self._plug.config.to_driver if sized else DEFAULT_BUFFER
        receive, transmit = device.queues
        to_driver = VhostRpmsgToDriver(receive, bus, direct=device.settle is None)
        bus.start(device.features, size - HEADER_SIZE, to_driver)
        try:
            async with trio.open_nursery() as nursery:
                for flow in (to_driver, VhostRpmsgFromDriver(transmit, bus)):
                    nursery.start_soon(flow.queue.serve_each_ring, partial(pump, flow, device.settle))
        finally:
            bus.stop()

    def config_written(self, offset: int, data: bytes) -> None:
        """Ignore it: all fields are read-only."""

    def agreed(self, features: int) -> None:
        """Do nothing: no configuration depends on the features."""

    def reset(self) -> None:
        """Do nothing: the driver changes no configuration."""

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class VhostRpmsg:
    """The device type. ``plug_for`` returns the plug of a device, or None until there is one."""

    name = "vhost_rpmsg"
    id_table = (MatchId(DeviceId.RPMSG),)
    table = TABLE

    def __init__(self, plug_for: Callable[[VhostDevice], Joinable | None]) -> None:
        self._plug_for = plug_for

    async def probe(self, device: VhostDevice) -> VhostBound:
        return require(self._plug_for(device), device, "nothing to connect to it yet").join(device)
