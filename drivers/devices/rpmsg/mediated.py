"""vhost_rpmsg, mediated: two drivers, each with its own device in this host, talk to each other's endpoints.

Addresses, names and announcements pass through unchanged. Each byte of a message is copied once, without the unused
rest of its buffer. If the receiving driver has no buffer, the sending driver waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from drivers.bus.vhost import DeviceQueue, OfferedQueue, VhostDevice
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
from rings.queue import Vringh, complete, getdesc

__all__ = ["MediatedRpmsgPlug", "RpmsgMediator"]


@attrs.frozen
class MediatedRpmsgPlug:
    """Settings of one of the two devices."""

    features: int = DEFAULT_FEATURES
    queue_size: int = 256
    config: RpmsgConfig = attrs.field(factory=RpmsgConfig)
    """Buffer sizes in bytes."""

    @property
    def receive_size(self) -> int:
        """Bytes of its driver's receive buffers, if the driver accepts the offered features."""
        return self.config.to_driver if self.features >> RpmsgFeature.BUFSZ & 1 else DEFAULT_BUFFER


class RpmsgCopier(Copier):
    """Copies from one driver's transmitq to the other's receiveq."""

    def __init__(self, source: int, sink: int, statistics: MediatorStatistics) -> None:
        """``source`` and ``sink``: features negotiated by the sending and by the receiving driver.

        A message to a service that only the sending driver negotiated is dropped. If only the receiving driver
        negotiated it, the address is an ordinary endpoint's.
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
        chain = getdesc(sink)
        if chain is None:
            return False
        into, readable, views = chain
        length = HEADER.unpack(head)[3]
        if readable:
            complete(sink, into, 0)  # not a receive buffer
            statistics.drop("buffer_short")
        elif total(views) < HEADER_SIZE + length:
            sink.abandon(1)
            statistics.drop("buffer_short")
        else:
            copied = copy_in(views, head)
            copied += copy(skip(views, HEADER_SIZE), take(skip(source, HEADER_SIZE), length))
            complete(sink, into, copied)
            statistics.count(copied, HEADER_SIZE + length, "empty")
        return True

    def _refusal(self, head: bytes, size: int) -> str:
        """Return why the message may not cross, or "". ``head`` is a private copy of the header."""
        if size < HEADER_SIZE:
            return "short"
        _, dst, _, length, _ = HEADER.unpack(head)
        if length > size - HEADER_SIZE:
            return "too_long"
        return "no_service" if dst in self._absent else ""


class RpmsgMediator(Mediator):
    """The connection between two rpmsg devices.

    A driver announces each endpoint once between two resets. So if one driver goes away, the other one's device
    requests a reset, and both start anew.
    """

    def __init__(self, plugs: Mapping[str, MediatedRpmsgPlug]) -> None:
        """``plugs``: settings of the two devices, by name."""
        super().__init__()
        self._plugs = plugs
        self._met = False

    def offer(self, device: VhostDevice) -> None:
        plug = self._plugs[device.name]
        if not plug.config.valid:
            raise ProbeError(f"{device.name}: buffers of {plug.config.to_driver} and {plug.config.to_device} bytes")
        # No driver may send more than the other one's receive buffers hold.
        largest = min(other.receive_size for name, other in self._plugs.items() if name != device.name)
        config = attrs.evolve(plug.config, to_device=min(plug.config.to_device, largest))
        queues = [OfferedQueue(name, plug.queue_size) for name in ("receiveq", "transmitq")]
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
