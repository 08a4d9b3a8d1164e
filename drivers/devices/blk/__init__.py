"""virtio-blk and vhost-blk (VIRTIO 1.4 section 5.2)."""

from drivers.devices.blk.device.device import BlkPlug, VhostBlk
from drivers.devices.blk.driver.disk import Disk, DiskError, DiskRequest
from drivers.devices.blk.driver.driver import BlkSettings, VirtioBlk
from drivers.devices.blk.layout import BlkFeature, BlkStatus, RequestType

__all__ = [
    "BlkFeature",
    "BlkPlug",
    "BlkSettings",
    "BlkStatus",
    "Disk",
    "DiskError",
    "DiskRequest",
    "RequestType",
    "VhostBlk",
    "VirtioBlk",
]
