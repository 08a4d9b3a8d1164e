"""Constants and structures of virtio-scsi: features, configuration, requests, events (VIRTIO 1.4 section 5.6)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

import attrs

from drivers.bus.config import ConfigField, emit_config
from rings.features import COMMON, FeatureTable, mask

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
    "ScsiConfigField",
    "ControlType",
    "EventType",
    "Lun",
    "ResetReason",
    "Response",
    "ScsiConfig",
    "ScsiFeature",
    "ScsiStatus",
    "Tmf",
]

HEADER = struct.Struct("<8sQBBB")
"""Request header: LUN, id, task attribute, priority, CRN. cdb_size bytes of CDB and data-out follow."""
RESPONSE = struct.Struct("<IIHBB")
"""Response: sense_len, residual, status_qualifier, status, response. sense_size bytes of sense and data-in follow."""
TMF = struct.Struct("<II8sQ")
"""Task management function: type, subtype, LUN, id. The answer is one byte."""
NOTIFICATION = struct.Struct("<I8sI")
"""AN_QUERY and AN_SUBSCRIBE: type, LUN, requested events."""
NOTIFICATION_ANSWER = struct.Struct("<IB")
"""Answer to them: supported events, response."""
EVENT = struct.Struct("<I8sI")
"""Event: event, LUN, reason."""
EVENTS_MISSED = 0x8000_0000
"""Event flag: earlier events were lost."""
SENSE_SIZE, CDB_SIZE = 96, 32
"""Bytes of sense data and of a CDB after a reset (section 5.6.4.2)."""
SENSE_SIZES, CDB_SIZES = range(18, 253), range(16, 261)
"""Sizes that a driver may choose: from SCSI's fixed sense format, and from CDBs of 16 bytes, to SCSI's maxima."""
WELL_KNOWN = 0xC101
"""Number of the REPORT LUNS well-known logical unit, as a single-level LUN."""
LUNS = 1 << 14
"""Number of LUNs per target."""


class ScsiFeature(IntEnum):
    INOUT = 0
    HOTPLUG = 1
    CHANGE = 2
    T10_PI = 3


TABLE = FeatureTable(names={f.value: f.name for f in ScsiFeature})
SUPPORTED = COMMON | mask((ScsiFeature.INOUT, ScsiFeature.HOTPLUG, ScsiFeature.CHANGE))


class Response(IntEnum):
    """Response codes of requests and of control requests."""

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


class ScsiStatus(IntEnum):
    """Status codes of commands (SAM-5 section 5.3)."""

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
    """Asynchronous notification events, named as in MMC."""

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
    """Reasons of a TRANSPORT_RESET."""

    HARD = 0
    RESCAN = 1
    REMOVED = 2


@attrs.frozen(order=True)
class Lun:
    """Address of a logical unit in the device's SCSI domain."""

    target: int
    """0 to 255; -1 with `WELL_KNOWN` for the unit of the whole domain."""
    lun: int
    """0 to 16383, or `WELL_KNOWN`."""

    @staticmethod
    def parse(data: bytes) -> Lun | None:
        """Parse the eight bytes of a request's LUN field. Returns None for an invalid format (section 5.6.6.1)."""
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
        """Return the LUN field of a request: a single-level LUN with flat space addressing, as Linux sends it."""
        if self.target < 0:
            return b"\xc1\x01" + bytes(6)
        return bytes((1, self.target, 0x40 | self.lun >> 8, self.lun & 0xFF)) + bytes(4)

    def emit_reported(self) -> bytes:
        """Return the LUN field of an event: addressed as in REPORT LUNS, so that initiators recognize the unit."""
        return bytes((1, self.target)) + self.emit_single()[:2] + bytes(4)

    def emit_single(self) -> bytes:
        """Return the LUN as its target's REPORT LUNS lists it: peripheral addressing below 256, else flat space."""
        high = 0 if self.lun < 256 else 0x40 | self.lun >> 8
        return bytes((high, self.lun & 0xFF)) + bytes(6)

    def __str__(self) -> str:
        return f"{self.target}:{self.lun}"


REPORT_LUNS = Lun(-1, WELL_KNOWN)
"""The well-known logical unit that lists the units of all targets."""


class ScsiConfigField(ConfigField):
    """Offset and size in bytes of each configuration field (section 5.6.4)."""

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


CONFIG_SIZE = 36
"""Bytes of the configuration space."""


@attrs.frozen(kw_only=True)
class ScsiConfig:
    """The device-specific configuration space."""

    num_queues: int = 1
    """Number of request queues."""
    seg_max: int = 126
    """Maximum number of data segments in one direction of a request."""
    max_sectors: int = 8192
    """Largest useful transfer, in units of 512 bytes."""
    cmd_per_lun: int = 128
    event_info_size: int = EVENT.size
    """Bytes, as are the two that follow."""
    sense_size: int = SENSE_SIZE
    cdb_size: int = CDB_SIZE
    max_channel: int = 0
    max_target: int = 255
    max_lun: int = LUNS - 1

    def emit(self) -> bytes:
        return emit_config(dict(zip(ScsiConfigField, attrs.astuple(self), strict=True)), CONFIG_SIZE)
