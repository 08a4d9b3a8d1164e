"""virtio-net and vhost-net (VIRTIO 1.4 section 5.1)."""

from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import BoundVirtioNet
from drivers.devices.net.layout import REQUESTED, SUPPORTED, TABLE, NetFeature
from drivers.devices.net.mediated import MediatedNetPlug, NetMediator
from drivers.virtio_type import Side, VirtioType, join
from rings.ids import DeviceId

__all__ = ["NET", "MediatedNetPlug", "NetFeature", "NetMediator", "NetPlug"]

NET = VirtioType(
    DeviceId.NET,
    TABLE,
    SUPPORTED,
    driver=Side("virtio_net", BoundVirtioNet, "port to plug into"),
    device=Side("vhost_net", join, "port to plug into"),
    class_code=0x020000,  # Ethernet controller
    on_request=REQUESTED,
)
