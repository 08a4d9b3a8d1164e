"""SCSI hosts: an initiator on the driver's host, its logical units on the device's host."""

from vnet.ends.kind import DeviceKind
from vnet.ends.scsi.demo import DEMO
from vnet.ends.scsi.end import InitiatorEnd, TargetsEnd, open_scsi, open_scsi_device, open_scsi_driver
from vnet.ends.scsi.exercise import EXERCISE
from vnet.ends.scsi.load import LOADS
from vnet.ends.scsi.serve import SERVE
from vnet.ends.scsi.spec import InitiatorSpec, LunSpec, ScsiSpec, TargetsSpec

__all__ = ["SCSI", "InitiatorEnd", "InitiatorSpec", "LunSpec", "ScsiSpec", "TargetsEnd", "TargetsSpec", "open_scsi"]

SCSI = DeviceKind(
    ScsiSpec,
    open_scsi,
    open_driver=open_scsi_driver,
    open_device=open_scsi_device,
    serve=SERVE,
    demo=DEMO,
    exercise=EXERCISE,
    loads=LOADS,
)
