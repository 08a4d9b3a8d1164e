"""virtio-scsi and vhost-scsi (VIRTIO 1.4 section 5.6)."""

from drivers.devices.scsi.device.device import VhostScsi
from drivers.devices.scsi.device.disk import LogicalUnit
from drivers.devices.scsi.device.domain import ScsiDomain
from drivers.devices.scsi.device.inquiry import Identity
from drivers.devices.scsi.device.plug import ScsiPlug
from drivers.devices.scsi.driver.driver import ScsiSettings, VirtioScsi
from drivers.devices.scsi.driver.initiator import Initiator
from drivers.devices.scsi.driver.result import ScsiError, ScsiEvent, ScsiRequest, ScsiResult
from drivers.devices.scsi.layout import AsyncEvent, EventType, Lun, ResetReason, Response, ScsiFeature, ScsiStatus, Tmf
from drivers.devices.scsi.sense import Asc, Sense, SenseKey

__all__ = [
    "Asc",
    "AsyncEvent",
    "EventType",
    "Identity",
    "Initiator",
    "SenseKey",
    "LogicalUnit",
    "Lun",
    "ResetReason",
    "Response",
    "ScsiDomain",
    "ScsiError",
    "ScsiEvent",
    "ScsiFeature",
    "ScsiPlug",
    "ScsiRequest",
    "ScsiResult",
    "ScsiSettings",
    "Sense",
    "ScsiStatus",
    "Tmf",
    "VhostScsi",
    "VirtioScsi",
]
