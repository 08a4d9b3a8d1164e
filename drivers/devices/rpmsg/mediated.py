"""vhost_rpmsg, mediated: two drivers, each with a device of its own here, talk to each other's endpoints.

Addresses, names and announcements are those of the two drivers, and pass through. Each byte of a message is copied
once, as many as it has, not as many as its buffer. Whoever has no buffer to receive into makes the other one wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from drivers.bus.vhost import DeviceQueue, VhostDevice
from drivers.devices.rpmsg.layout import (
    DEFAULT_BUFFER,
    DEFAULT_FEATURES,
    HEADER,
    HEADER_SIZE,
    SERVICES,
    SUPPORTED,
    TABLE,
    RpmsgConfig,
    RpmsgFeature,
)
from drivers.errors import ProbeError
from drivers.mediator import Copier, Mediator, MediatorStatistics
from rings.chain import copy, copy_in, copy_out, skip, take, total
from rings.queue import Vringh

__all__ = ["MediatedRpmsgPlug", "RpmsgMediator"]


@attrs.frozen
class MediatedRpmsgPlug:
    """What one of the two devices offers its driver."""

    features: int = DEFAULT_FEATURES
    queue_size: int = 256
    config: RpmsgConfig = attrs.field(factory=RpmsgConfig)
    """Bytes of its buffers."""

    @property
    def receives(self) -> int:
        """Bytes of the buffers that its driver receives into, if it accepts what is offered."""
        return self.config.to_driver if self.features >> RpmsgFeature.BUFSZ & 1 else DEFAULT_BUFFER


class RpmsgCopier(Copier):
    """From one driver's transmitq to the other's receiveq."""

    def __init__(self, source: int, sink: int, statistics: MediatorStatistics) -> None:
        """``source`` and ``sink`` are the features that the driver that sends and the one that receives agreed on.

        A message to a service that only the sender knows has no recipient. To a sender that does not know it, the
        address is that of an endpoint.
        """
        super().__init__(statistics)
        self._absent = {addr for addr, bit in SERVICES.items() if source & ~sink & 1 << bit}

    def copy_one(self, source: Sequence[memoryview], sink: Vringh) -> bool:
        statistics = self.statistics
        head = copy_out(source, HEADER_SIZE)
        cause = self._refusal(head, total(source))
        if cause:
            statistics.drop(cause)
            return True
        chain = sink.getdesc()
        if chain is None:
            return False
        into, readable, views = chain
        length = HEADER.unpack(head)[3]
        if readable:
            sink.complete(into, 0)  # no receive buffer
            statistics.drop("buffer_short")
        elif total(views) < HEADER_SIZE + length:
            sink.abandon(into)
            statistics.drop("buffer_short")
        else:
            copied = copy_in(views, head)
            copied += copy(skip(views, HEADER_SIZE), take(skip(source, HEADER_SIZE), length))
            sink.complete(into, copied)
            statistics.count(copied, HEADER_SIZE + length, "empty")
        return True

    def _refusal(self, head: bytes, size: int) -> str:
        """Why a message of ``size`` bytes with this private header does not cross; empty where it does."""
        if size < HEADER_SIZE:
            return "short"
        _, dst, _, length, _ = HEADER.unpack(head)
        if length > size - HEADER_SIZE:
            return "too_long"
        return "no_service" if dst in self._absent else ""


class RpmsgMediator(Mediator):
    """The way between two rpmsg devices.

    What a driver announced it does not announce again before its device is reset. So a driver that goes takes the
    other one along: that one's device asks for a reset, and both start anew.
    """

    def __init__(self, plugs: Mapping[str, MediatedRpmsgPlug]) -> None:
        """``plugs`` of the two devices, by name."""
        super().__init__()
        self._plugs = plugs
        self._met = False

    def offer(self, device: VhostDevice) -> None:
        plug = self._plugs[device.name]
        if not plug.config.valid:
            raise ProbeError(f"{device.name}: buffers of {plug.config.to_driver} and {plug.config.to_device} bytes")
        # Nobody is to send what the other one has no buffer for.
        largest = min(other.receives for name, other in self._plugs.items() if name != device.name)
        config = attrs.evolve(plug.config, to_device=min(plug.config.to_device, largest))
        queues = [(name, plug.queue_size) for name in ("receiveq", "transmitq")]
        device.offer(TABLE, plug.features & SUPPORTED, queues, config.emit())

    def queues(self, source: VhostDevice, sink: VhostDevice) -> tuple[DeviceQueue, DeviceQueue]:
        return source.queues[1], sink.queues[0]

    def copier(self, source: VhostDevice, sink: VhostDevice, statistics: MediatorStatistics) -> Copier:
        return RpmsgCopier(source.features, sink.features, statistics)

    def changed(self) -> None:
        super().changed()
        met, self._met = self._met, self.live
        if met and not self._met:
            for end in self.ends:
                if end.usable:
                    end.device.fail("the driver at the other end of the mediator went away")
