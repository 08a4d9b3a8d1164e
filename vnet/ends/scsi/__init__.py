"""SCSI hosts: an initiator on the driver's host, its logical units on the device's host."""

from vnet.ends.scsi.end import InitiatorEnd, TargetsEnd, open_scsi, open_scsi_device, open_scsi_driver
from vnet.ends.scsi.spec import InitiatorSpec, LunSpec, ScsiSpec, TargetsSpec

__all__ = [
    "InitiatorEnd",
    "InitiatorSpec",
    "LunSpec",
    "ScsiSpec",
    "TargetsEnd",
    "TargetsSpec",
    "open_scsi",
    "open_scsi_device",
    "open_scsi_driver",
]
