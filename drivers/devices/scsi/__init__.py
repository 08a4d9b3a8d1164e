"""virtio-scsi and vhost-scsi (VIRTIO 1.4 section 5.6)."""

from drivers.devices.scsi.device.device import BoundVhostScsi
from drivers.devices.scsi.device.disk import LogicalUnit
from drivers.devices.scsi.device.domain import ScsiDomain
from drivers.devices.scsi.device.inquiry import UnitIdentity
from drivers.devices.scsi.device.plug import ScsiPlug
from drivers.devices.scsi.driver.driver import BoundVirtioScsi, ScsiSettings
from drivers.devices.scsi.driver.initiator import Initiator
from drivers.devices.scsi.driver.result import ScsiError, ScsiEvent, ScsiRequest, ScsiResult
from drivers.devices.scsi.layout import (
    SUPPORTED,
    TABLE,
    AsyncEvent,
    EventType,
    Lun,
    ResetReason,
    Response,
    ScsiFeature,
    ScsiStatus,
    Tmf,
)
from drivers.devices.scsi.sense import Asc, Sense, SenseKey
from drivers.virtio_type import Side, VirtioType
from rings.ids import DeviceId

__all__ = [
    "SCSI",
    "Asc",
    "AsyncEvent",
    "EventType",
    "UnitIdentity",
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
]

SCSI = VirtioType(
    DeviceId.SCSI,
    TABLE,
    SUPPORTED,
    driver=Side("virtio_scsi", BoundVirtioScsi),
    device=Side("vhost_scsi", BoundVhostScsi, "logical units"),
    class_code=0x010000,  # SCSI
)
