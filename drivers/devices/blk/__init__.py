"""virtio-blk and vhost-blk (VIRTIO 1.4 section 5.2)."""

from drivers.devices.blk.device.device import BlkPlug, BoundVhostBlk
from drivers.devices.blk.driver.disk import Disk, DiskError, DiskRequest
from drivers.devices.blk.driver.driver import BlkSettings, BoundVirtioBlk
from drivers.devices.blk.layout import SUPPORTED, TABLE, BlkStatus, RequestType
from drivers.virtio_type import Side, VirtioType
from rings.ids import DeviceId

__all__ = [
    "BLK",
    "BlkPlug",
    "BlkSettings",
    "BlkStatus",
    "Disk",
    "DiskError",
    "DiskRequest",
    "RequestType",
]

BLK = VirtioType(
    DeviceId.BLOCK,
    TABLE,
    SUPPORTED,
    driver=Side("virtio_blk", BoundVirtioBlk),
    device=Side("vhost_blk", BoundVhostBlk, "store"),
    class_code=0x018000,  # other mass storage
)
