"""Constants and structures of virtio-blk: features, configuration, requests, status (VIRTIO 1.4 section 5.2)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

from drivers.bus.config import ConfigField
from rings.features import COMMON, FeatureTable, mask

__all__ = [
    "ANSWER_SIZES",
    "CONFIG_SIZE",
    "FLUSH",
    "GET_ID",
    "HEADER",
    "ID_SIZE",
    "IN",
    "LIFETIME",
    "OK",
    "OUT",
    "SECTOR",
    "SEGMENT",
    "SUPPORTED",
    "TABLE",
    "UNMAP",
    "BlkFeature",
    "BlkStatus",
    "BlkConfigField",
    "RequestType",
]

SECTOR = 512
"""Bytes of a sector, the specification's unit at any block size."""
ID_SIZE = 20
"""Bytes of the answer to GET_ID."""
UNMAP = 1
"""Flag of a write-zeroes segment; there is no other."""
HEADER = struct.Struct("<IIQ")
"""Request header: type, reserved, sector."""
SEGMENT = struct.Struct("<QII")
"""Segment of a discard, write-zeroes or secure-erase request: sector, number of sectors, flags."""
LIFETIME = struct.Struct("<HHH")
"""Answer to GET_LIFETIME: the fields of `drivers.contracts.ports.Lifetime`."""


class BlkFeature(IntEnum):
    SIZE_MAX = 1
    SEG_MAX = 2
    RO = 5
    BLK_SIZE = 6
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    MQ = 12
    DISCARD = 13
    WRITE_ZEROES = 14
    LIFETIME = 15
    SECURE_ERASE = 16


F = BlkFeature
TABLE = FeatureTable(names={f.value: f.name for f in BlkFeature})
SUPPORTED = mask(BlkFeature) | COMMON


class RequestType(IntEnum):
    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14


class BlkStatus(IntEnum):
    OK = 0
    IOERR = 1
    UNSUPP = 2


IN, OUT, FLUSH, GET_ID = RequestType.IN, RequestType.OUT, RequestType.FLUSH, RequestType.GET_ID
OK = BlkStatus.OK
"""Names of the module, because looking a member of an enumeration up takes longer than comparing with it."""
ANSWER_SIZES: Mapping[int, int] = {GET_ID: ID_SIZE, RequestType.GET_LIFETIME: LIFETIME.size}
"""Bytes of the answers to requests that ask for something besides sectors."""


class BlkConfigField(ConfigField):
    """Offset and size in bytes of each configuration field in use (section 5.2.4)."""

    CAPACITY = 0, 8
    SIZE_MAX = 8, 4
    SEG_MAX = 12, 4
    BLK_SIZE = 20, 4
    PHYSICAL_BLOCK_EXP = 24, 1
    ALIGNMENT_OFFSET = 25, 1
    MIN_IO_SIZE = 26, 2
    OPT_IO_SIZE = 28, 4
    WRITEBACK = 32, 1
    NUM_QUEUES = 34, 2
    MAX_DISCARD_SECTORS = 36, 4
    MAX_DISCARD_SEG = 40, 4
    DISCARD_SECTOR_ALIGNMENT = 44, 4
    MAX_WRITE_ZEROES_SECTORS = 48, 4
    MAX_WRITE_ZEROES_SEG = 52, 4
    WRITE_ZEROES_MAY_UNMAP = 56, 1
    MAX_SECURE_ERASE_SECTORS = 60, 4
    MAX_SECURE_ERASE_SEG = 64, 4
    SECURE_ERASE_SECTOR_ALIGNMENT = 68, 4

    @property
    def feature(self) -> BlkFeature | None:
        """The feature that makes the field valid; None if it always is."""
        return _NEEDS.get(self)


C = BlkConfigField
_NEEDS: Mapping[BlkConfigField, BlkFeature] = {
    C.SIZE_MAX: F.SIZE_MAX,
    C.SEG_MAX: F.SEG_MAX,
    C.BLK_SIZE: F.BLK_SIZE,
    **dict.fromkeys((C.PHYSICAL_BLOCK_EXP, C.ALIGNMENT_OFFSET, C.MIN_IO_SIZE, C.OPT_IO_SIZE), F.TOPOLOGY),
    C.WRITEBACK: F.CONFIG_WCE,
    C.NUM_QUEUES: F.MQ,
    **dict.fromkeys((C.MAX_DISCARD_SECTORS, C.MAX_DISCARD_SEG, C.DISCARD_SECTOR_ALIGNMENT), F.DISCARD),
    **dict.fromkeys((C.MAX_WRITE_ZEROES_SECTORS, C.MAX_WRITE_ZEROES_SEG, C.WRITE_ZEROES_MAY_UNMAP), F.WRITE_ZEROES),
    **dict.fromkeys(
        (C.MAX_SECURE_ERASE_SECTORS, C.MAX_SECURE_ERASE_SEG, C.SECURE_ERASE_SECTOR_ALIGNMENT), F.SECURE_ERASE
    ),
}


CONFIG_SIZE = 72
"""Bytes of the configuration space. The legacy geometry and padding are zeroes."""
