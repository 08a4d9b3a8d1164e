"""Every device type and every transport there is: one line each."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from drivers.devices.net import layout as net
from rings.features import FeatureTable, RingFeature, mask
from rings.ids import DeviceId

__all__ = ["DEVICES", "TRANSPORTS", "DeviceType"]


@attrs.frozen
class DeviceType:
    """What has to be known of a device type before any of its code runs."""

    device_id: DeviceId
    table: FeatureTable
    supported: int
    """Every feature bit it has, ring features included."""

    @property
    def switchable(self) -> int:
        """The bits that may be switched off one by one: without VERSION_1 there is no device."""
        return self.supported & ~mask((RingFeature.VERSION_1,))


DEVICES: Mapping[str, DeviceType] = {
    "net": DeviceType(DeviceId.NET, net.TABLE, net.SUPPORTED),
}
TRANSPORTS: tuple[str, ...] = ("pci",)
