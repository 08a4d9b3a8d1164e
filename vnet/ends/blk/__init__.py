"""Block devices: a disk on the driver's host, its store on the device's host."""

from vnet.ends.blk.end import DiskEnd, StoreEnd, open_blk, open_blk_device, open_blk_driver
from vnet.ends.blk.spec import BlkSpec, DiskSpec, DiskStoreSpec, nbd_uri

__all__ = [
    "BlkSpec",
    "DiskEnd",
    "DiskSpec",
    "DiskStoreSpec",
    "StoreEnd",
    "nbd_uri",
    "open_blk",
    "open_blk_device",
    "open_blk_driver",
]
