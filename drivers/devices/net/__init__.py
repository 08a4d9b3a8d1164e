"""virtio-net and vhost-net (VIRTIO 1.4 section 5.1)."""

from drivers.devices.net.device.device import NetPlug, VhostNet
from drivers.devices.net.driver.driver import VirtioNet
from drivers.devices.net.layout import NetFeature
from drivers.devices.net.mediated import MediatedNetPlug, NetMediator

__all__ = ["MediatedNetPlug", "NetFeature", "NetMediator", "NetPlug", "VhostNet", "VirtioNet"]
