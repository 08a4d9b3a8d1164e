"""The base class of transports' back halves: a device, and what its device type and its owner need of the transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import attrs

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.vhost import VhostDevice
from drivers.contracts.events import SILENT, Reporter
from rings.features import RingFeature, mask
from rings.formats import ON_REQUEST, RING_FEATURES
from rings.memory import Memory
from rings.observers.meter import Meter
from rings.status import Status

__all__ = ["UNCLASSIFIED", "VIRTIO_VENDOR", "Identity", "VhostBack"]

VIRTIO_VENDOR = 0x1AF4
UNCLASSIFIED = 0xFF0000
"""PCI class code of a device that fits no class."""
PACKED = mask((RingFeature.RING_PACKED,))


@attrs.frozen
class Identity:
    """The identity that a device's transport shows."""

    device_id: int
    """Virtio device id."""
    name: str = ""
    packed: bool = False
    """Whether packed queues are offered."""
    class_code: int = UNCLASSIFIED
    """PCI class code, which a PCI function shows."""
    reporter: Reporter = SILENT
    """Reporter of the device's events."""
    features_on: int = 0
    """Feature bits of `rings.formats.ON_REQUEST` that are offered."""

    def offered(self, supported: int) -> int:
        """Return those of a transport's feature bits that may be used."""
        return supported & ~(ON_REQUEST & ~self.features_on | (0 if self.packed else PACKED))

    @property
    def ring_features(self) -> int:
        """Ring feature bits that may be used."""
        return self.offered(RING_FEATURES)


class VhostBack(ABC):
    """A transport's back half with its device, a `drivers.bus.vhost.VhostOps`. The methods with a body are hooks."""

    meter: Meter | None = None
    extra_features: ClassVar[int] = 0
    """Feature bits that the transport supports besides those of rings."""

    def __init__(self, identity: Identity, vendor_id: int = VIRTIO_VENDOR) -> None:
        self.features = identity.offered(RING_FEATURES | self.extra_features)
        self.device = VhostDevice(identity.device_id, vendor_id, self, identity.name, identity.reporter)

    # Called by the system

    @abstractmethod
    def bind(self) -> None:
        """Show the device to the other side. Called once a driver has offered features."""

    @abstractmethod
    def unbind(self) -> None:
        """Hide the device from the other side."""

    async def serve(self) -> None:
        """Run the transport's own tasks until cancelled; by default there are none, and it returns at once."""

    def registers(self) -> dict[str, int]:
        """Return registers or scratchpads that the other side reads, and counters of invalid accesses, by name."""
        return {}

    # VhostOps

    @property
    def lossy(self) -> bool:
        """Whether kicks can get lost."""
        return False

    @abstractmethod
    def memory(self) -> Memory:
        """Return the driver's memory as mapped now. Raises MemoryFault if it is unreachable."""

    @abstractmethod
    def call(self, queue: DeviceQueue) -> None:
        """Notify the driver that buffers were used. Posted."""

    @abstractmethod
    def config_changed(self) -> None:
        """Notify the driver that configuration or status changed."""

    async def settle(self) -> None:
        """Sleep until the link has carried the accesses so far; by default there is no link that takes time."""

    def status_changed(self, status: Status) -> None:
        """Handle a new device status. By default there is nothing to do: it is computed on read."""

    def changed(self) -> None:
        """Handle new features, configuration or NEEDS_RESET. By default there is nothing to do: there is no copy."""
