"""Block devices: a disk on the driver's host, its store on the device's host."""

from vnet.ends.blk.demo import DEMO
from vnet.ends.blk.end import DiskEnd, StoreEnd, open_blk, open_blk_device, open_blk_driver
from vnet.ends.blk.exercise import EXERCISE
from vnet.ends.blk.load import LOADS
from vnet.ends.blk.serve import SERVE
from vnet.ends.blk.spec import BlkSpec, DiskSpec, DiskStoreSpec, nbd_uri
from vnet.ends.kind import DeviceKind

__all__ = ["BLK", "BlkSpec", "DiskEnd", "DiskSpec", "DiskStoreSpec", "StoreEnd", "nbd_uri", "open_blk"]

BLK = DeviceKind(
    BlkSpec,
    open_blk,
    open_driver=open_blk_driver,
    open_device=open_blk_device,
    serve=SERVE,
    demo=DEMO,
    exercise=EXERCISE,
    loads=LOADS,
)
