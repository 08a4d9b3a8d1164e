"""The two ends of each device type: a module and a line in `ENDS` per type."""

from __future__ import annotations

from vnet.ends.base import EndsType
from vnet.ends.blk import BlkSpec, open_blk, open_blk_device, open_blk_driver
from vnet.ends.net.changes import change_net
from vnet.ends.net.end import NetSpec, mediate_net, open_net, open_net_device, open_net_driver, own_net_config
from vnet.ends.rpmsg import RpmsgSpec, mediate_rpmsg, open_rpmsg
from vnet.ends.scsi import ScsiSpec, open_scsi, open_scsi_device, open_scsi_driver

__all__ = ["ENDS"]

ENDS: dict[str, EndsType] = {
    "net": EndsType(NetSpec, open_net, mediate_net, open_net_device, open_net_driver, change_net, own_net_config),
    "rpmsg": EndsType(RpmsgSpec, open_rpmsg, mediate_rpmsg),
    "blk": EndsType(BlkSpec, open_blk, open_device=open_blk_device, open_driver=open_blk_driver),
    "scsi": EndsType(ScsiSpec, open_scsi, open_device=open_scsi_device, open_driver=open_scsi_driver),
}
"""Ends by device type; extensions add theirs."""
