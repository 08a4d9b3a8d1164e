"""virtio_rpmsg and vhost_rpmsg: messages between endpoints of two machines (virtio device id 7)."""

from drivers.devices.rpmsg.bus import RpmsgBus
from drivers.devices.rpmsg.device.device import RpmsgPlug
from drivers.devices.rpmsg.driver.driver import BoundVirtioRpmsg, RpmsgSettings
from drivers.devices.rpmsg.endpoint import Endpoint, EndpointStatistics
from drivers.devices.rpmsg.layout import SUPPORTED, TABLE, RpmsgConfig, RpmsgFeature
from drivers.devices.rpmsg.mediated import MediatedRpmsgPlug, RpmsgMediator
from drivers.virtio_type import Side, VirtioType, join
from rings.ids import DeviceId

__all__ = [
    "RPMSG",
    "Endpoint",
    "EndpointStatistics",
    "MediatedRpmsgPlug",
    "RpmsgBus",
    "RpmsgConfig",
    "RpmsgFeature",
    "RpmsgMediator",
    "RpmsgPlug",
    "RpmsgSettings",
]

RPMSG = VirtioType(
    DeviceId.RPMSG,
    TABLE,
    SUPPORTED,
    driver=Side("virtio_rpmsg", BoundVirtioRpmsg),
    device=Side("vhost_rpmsg", join),
)
