"""virtio_rpmsg and vhost_rpmsg: messages between endpoints of two machines (virtio device id 7)."""

from drivers.devices.rpmsg.bus import RpmsgBus, RpmsgStatistics
from drivers.devices.rpmsg.device.device import RpmsgPlug, VhostRpmsg
from drivers.devices.rpmsg.driver.driver import RpmsgSettings, VirtioRpmsg
from drivers.devices.rpmsg.endpoint import Endpoint, EndpointStatistics
from drivers.devices.rpmsg.layout import RpmsgConfig, RpmsgFeature
from drivers.devices.rpmsg.mediated import MediatedRpmsgPlug, RpmsgMediator

__all__ = [
    "Endpoint",
    "EndpointStatistics",
    "MediatedRpmsgPlug",
    "RpmsgBus",
    "RpmsgConfig",
    "RpmsgFeature",
    "RpmsgMediator",
    "RpmsgPlug",
    "RpmsgSettings",
    "RpmsgStatistics",
    "VhostRpmsg",
    "VirtioRpmsg",
]
