"""virtio-scsi's words: features, configuration, requests, control and events (VIRTIO 1.4 sections 5.6.3 to 5.6.6)."""

from __future__ import annotations

import struct
from enum import Enum, IntEnum, IntFlag

import attrs

from rings.features import FeatureTable, RingFeature, mask

__all__ = [
    "CDB_SIZE",
    "CDB_SIZES",
    "EVENT",
    "EVENTS_MISSED",
    "HEADER",
    "NOTIFICATION",
    "NOTIFICATION_ANSWER",
    "REPORT_LUNS",
    "RESPONSE",
    "SENSE_SIZE",
    "SENSE_SIZES",
    "SUPPORTED",
    "TABLE",
    "TMF",
    "WELL_KNOWN",
    "AsyncEvent",
    "ConfigField",
    "ControlType",
    "EventType",
    "Lun",
    "ResetReason",
    "Response",
    "ScsiConfig",
    "ScsiFeature",
    "Status",
    "Tmf",
]

HEADER = struct.Struct("<8sQBBB")
"""What a request starts with: LUN, id, task attribute, priority, CRN; cdb_size bytes of CDB follow, then data."""
RESPONSE = struct.Struct("<IIHBB")
"""sense_len, residual, status_qualifier, status, response; sense_size bytes of sense follow, then data."""
TMF = struct.Struct("<II8sQ")
"""Type, subtype, LUN, id; the answer is one byte."""
NOTIFICATION = struct.Struct("<I8sI")
"""Type, LUN, events asked for."""
NOTIFICATION_ANSWER = struct.Struct("<IB")
"""Events there are, response."""
EVENT = struct.Struct("<I8sI")
"""Event, LUN, reason."""
EVENTS_MISSED = 0x8000_0000
"""The bit of an event that says that others were lost."""
SENSE_SIZE, CDB_SIZE = 96, 32
"""Bytes of sense data and of a CDB after a reset (section 5.6.4.2)."""
SENSE_SIZES, CDB_SIZES = range(18, 253), range(16, 261)
"""Those that a driver may choose: what SCSI's fixed format needs, and what SCSI knows at most."""
WELL_KNOWN = 0xC101
"""The REPORT LUNS well-known logical unit, as a single-level LUN."""
LUNS = 1 << 14


class ScsiFeature(IntEnum):
    INOUT = 0
    HOTPLUG = 1
    CHANGE = 2
    T10_PI = 3


TABLE = FeatureTable(names={f.value: f.name for f in ScsiFeature})
SUPPORTED = mask((ScsiFeature.INOUT, ScsiFeature.HOTPLUG, ScsiFeature.CHANGE)) | mask(
    (RingFeature.VERSION_1, RingFeature.INDIRECT_DESC, RingFeature.EVENT_IDX)
)


class Response(IntEnum):
    """What became of a request, or of something asked on the control queue."""

    OK = 0
    OVERRUN = 1
    ABORTED = 2
    BAD_TARGET = 3
    RESET = 4
    BUSY = 5
    TRANSPORT_FAILURE = 6
    TARGET_FAILURE = 7
    NEXUS_FAILURE = 8
    FAILURE = 9
    FUNCTION_SUCCEEDED = 10
    FUNCTION_REJECTED = 11
    INCORRECT_LUN = 12


class Status(IntEnum):
    """SAM's status of a command (SAM-5 section 5.3)."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


class ControlType(IntEnum):
    TMF = 0
    AN_QUERY = 1
    AN_SUBSCRIBE = 2


class Tmf(IntEnum):
    """Task management functions."""

    ABORT_TASK = 0
    ABORT_TASK_SET = 1
    CLEAR_ACA = 2
    CLEAR_TASK_SET = 3
    I_T_NEXUS_RESET = 4
    LOGICAL_UNIT_RESET = 5
    QUERY_TASK = 6
    QUERY_TASK_SET = 7


class AsyncEvent(IntFlag):
    """Asynchronous notifications, as MMC names them."""

    OPERATIONAL_CHANGE = 2
    POWER_MGMT = 4
    EXTERNAL_REQUEST = 8
    MEDIA_CHANGE = 16
    MULTI_HOST = 32
    DEVICE_BUSY = 64


class EventType(IntEnum):
    NO_EVENT = 0
    TRANSPORT_RESET = 1
    ASYNC_NOTIFY = 2
    PARAM_CHANGE = 3


class ResetReason(IntEnum):
    """Of a TRANSPORT_RESET."""

    HARD = 0
    RESCAN = 1
    REMOVED = 2


@attrs.frozen(order=True)
class Lun:
    """A logical unit of the device's SCSI domain."""

    target: int
    """0 to 255; -1 with `WELL_KNOWN` for that of the whole domain."""
    lun: int
    """0 to 16383, or `WELL_KNOWN`."""

    @staticmethod
    def parse(data: bytes) -> Lun | None:
        """From eight bytes of a request; None for what is no format there (section 5.6.6.1)."""
        if any(data[4:]):
            return None
        method, number = data[2] >> 6, int.from_bytes(data[2:4], "big")
        if data[0] == 0xC1:
            return REPORT_LUNS if data[1] == 1 and not number else None
        if data[0] != 1:
            return None
        if method == 1:
            return Lun(data[1], number & LUNS - 1)
        if (method == 0 and not data[2]) or number == WELL_KNOWN:
            return Lun(data[1], number)
        return None

    def emit(self) -> bytes:
        """For a request: a single-level LUN by flat space addressing, as Linux does it."""
        if self.target < 0:
            return b"\xc1\x01" + bytes(6)
        return bytes((1, self.target, 0x40 | self.lun >> 8, self.lun & 0xFF)) + bytes(4)

    def emit_reported(self) -> bytes:
        """The same in the form that REPORT LUNS has, which initiators take for one LUN's name: for events."""
        return bytes((1, self.target)) + self.emit_single()[:2] + bytes(4)

    def emit_single(self) -> bytes:
        """The LUN alone, as the REPORT LUNS of its target lists it: peripheral addressing as long as that does."""
        high = 0 if self.lun < 256 else 0x40 | self.lun >> 8
        return bytes((high, self.lun & 0xFF)) + bytes(6)

    def __str__(self) -> str:
        return f"{self.target}:{self.lun}"


REPORT_LUNS = Lun(-1, WELL_KNOWN)
"""What lists the logical units of all targets."""


class ConfigField(Enum):
    """Offset and bytes of the fields of the configuration space (section 5.6.4)."""

    NUM_QUEUES = 0, 4
    SEG_MAX = 4, 4
    MAX_SECTORS = 8, 4
    CMD_PER_LUN = 12, 4
    EVENT_INFO_SIZE = 16, 4
    SENSE_SIZE = 20, 4
    CDB_SIZE = 24, 4
    MAX_CHANNEL = 28, 2
    MAX_TARGET = 30, 2
    MAX_LUN = 32, 4


@attrs.frozen(kw_only=True)
class ScsiConfig:
    """The device-specific configuration space."""

    num_queues: int = 1
    """Request queues."""
    seg_max: int = 126
    """Segments of data in one direction of one request."""
    max_sectors: int = 8192
    """512 bytes each: the largest transfer that is of use."""
    cmd_per_lun: int = 128
    event_info_size: int = EVENT.size
    """Bytes, like the two that follow."""
    sense_size: int = SENSE_SIZE
    cdb_size: int = CDB_SIZE
    max_channel: int = 0
    max_target: int = 255
    max_lun: int = LUNS - 1

    _FORM = struct.Struct("<7IHHI")

    def emit(self) -> bytes:
        return self._FORM.pack(*attrs.astuple(self))
