"""virtio-net and vhost-net (VIRTIO 1.4 section 5.1)."""

from drivers.devices.net.device import NetPlug, VhostNet
from drivers.devices.net.driver import VirtioNet
from drivers.devices.net.layout import NetFeature

__all__ = ["NetFeature", "NetPlug", "VhostNet", "VirtioNet"]
