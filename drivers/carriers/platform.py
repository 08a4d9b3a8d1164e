"""The platform bus of a host, and the base class of front halves over its register regions."""

from __future__ import annotations

from drivers.bus.virtio import DriverQueue, VirtioDevice
from drivers.carriers.base import CarrierBus, CarrierDriver
from drivers.contracts.hw import DmaMemory, MmioRegion
from drivers.memory.vring import VringMemory
from rings.formats import RING_FEATURES

__all__ = ["PlatformBus", "RegionTransport", "VirtioPlatformDriver"]


VirtioPlatformDriver = CarrierDriver[MmioRegion]
"""A driver that makes a virtio device of every matching region with a device in it."""


class PlatformBus(CarrierBus[MmioRegion]):
    """The bus of a host's platform regions."""

    prefix = "platform"


class RegionTransport:
    """Base class of a front half over a region of the platform bus: its device, its queues and their memory."""

    features = RING_FEATURES
    online = True
    """Always: there is no link to lose."""

    def __init__(self, region: MmioRegion) -> None:
        self.dma: DmaMemory = region.dma
        self._region = region
        self._device: VirtioDevice | None = None
        self._queues: list[DriverQueue] = []
        self._rings = VringMemory(self.dma)

    def own(self, device: VirtioDevice) -> None:
        """Report events of the region to ``device`` from now on."""
        self._device = device

    def release(self) -> None:
        self._region.free_irq()
        self._device = None

    async def wait_online(self) -> None:
        """Return at once: the device is always online."""
