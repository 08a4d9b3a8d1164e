"""Re-checks of devices on a link: they run while it can lose doorbells and interrupts."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from vnet.system.device import Device

__all__ = ["Rechecks"]


@attrs.frozen(eq=False)
class Rechecks:
    """The re-checks of the devices on one link. Devices over an NTB need none: its heartbeat finds lost doorbells."""

    link: str
    """Name of the link."""
    devices: Mapping[str, Device]
    """All devices of the system."""

    def switch(self, on: bool) -> None:
        """Begin or end to re-check the queues on both sides, and look once at once: a notification may be lost."""
        for device in self.devices.values():
            if device.spec.link != self.link:
                continue
            if device.virtio is not None:
                device.virtio.set_recheck(on)
            for queue in device.device_queues:
                queue.set_recheck(on)
