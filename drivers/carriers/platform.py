"""The platform bus of a host: register regions listed in the host's platform description."""

from __future__ import annotations

from drivers.carriers.base import CarrierBus, CarrierDriver
from drivers.contracts.hw import MmioRegion

__all__ = ["PlatformBus", "VirtioPlatformDriver"]


VirtioPlatformDriver = CarrierDriver[MmioRegion]
"""A driver that makes a virtio device of every matching region with a device in it."""


class PlatformBus(CarrierBus[MmioRegion]):
    """The bus of a host's platform regions."""

    prefix = "platform"
