"""The platform bus of a host: regions of registers that its own description names."""

from __future__ import annotations

import attrs

from drivers.carriers.base import CarrierBus, CarrierDriver
from drivers.contracts.hw import MmioRegion

__all__ = ["PlatformBus", "VirtioPlatformDriver"]


@attrs.frozen
class VirtioPlatformDriver(CarrierDriver[MmioRegion]):
    """Makes a virtio device of every region in its id table that has one behind it."""


class PlatformBus(CarrierBus[MmioRegion]):
    """The regions of one host."""

    prefix = "platform"
