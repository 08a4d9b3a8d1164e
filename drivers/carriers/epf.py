"""What every back half that is a function of an endpoint controller does alike."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.bus.vhost import VhostDevice, VhostOps
from drivers.contracts.hw import Epc
from rings.formats import RING_FEATURES
from rings.ids import DeviceId
from rings.memory import Memory

__all__ = ["VIRTIO_VENDOR", "EndpointFunction", "class_code"]

VIRTIO_VENDOR = 0x1AF4
CLASS_CODES: Mapping[int, int] = {DeviceId.NET: 0x020000, DeviceId.BLOCK: 0x018000, DeviceId.SCSI: 0x010000}
"""Network controller, mass storage, SCSI."""


def class_code(device_id: int) -> int:
    """The PCI class of a virtio device id; 0xff is unclassified."""
    return CLASS_CODES.get(device_id, 0xFF0000)


class EndpointFunction(VhostOps):
    """One function that is a virtio device, except for its registers and interrupts."""

    features = RING_FEATURES

    def __init__(self, epc: Epc, function: int, device_id: int, name: str = "") -> None:
        self.device = VhostDevice(device_id, VIRTIO_VENDOR, self, name)
        self.device.meter, self.device.lossy = epc.meter(function), epc.lossy
        self._epc = epc
        self._function = function

    def unbind(self) -> None:
        self._epc.clear(self._function)

    async def serve(self) -> None:
        """Whatever happens, it is told."""

    def registers(self) -> dict[str, int]:
        """What they show is made when they are read, of what the device says of itself."""
        return {}

    # VhostOps

    def memory(self) -> Memory:
        return self._epc.window(self._function)

    async def settle(self) -> None:
        await self._epc.settle()

    # LinkEvents

    def link_up(self) -> None:
        """The next set-up asks for the new epoch's window."""

    def link_down(self) -> None:
        self.device.reset()
