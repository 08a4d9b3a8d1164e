"""Layout of the registers and capabilities of virtio-pci (VIRTIO 1.4 section 4.1.4)."""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

from rings.features import PLATFORM, RingFeature, mask

__all__ = [
    "CAP_VENDOR",
    "COMMON_SIZE",
    "DEVICE_BASE",
    "EXTRA_FEATURES",
    "ISR_CONFIG",
    "ISR_QUEUE",
    "SIZES",
    "TRANSITIONAL",
    "CfgType",
    "Common",
    "Structure",
]

DEVICE_BASE = 0x1040
EXTRA_FEATURES = PLATFORM | mask((RingFeature.RING_RESET, RingFeature.NOTIFICATION_DATA, RingFeature.NOTIF_CONFIG_DATA))
"""Feature bits that the transport supports besides those of rings."""
TRANSITIONAL = {0x1000: 1, 0x1001: 2, 0x1002: 5, 0x1003: 3, 0x1004: 8, 0x1005: 4, 0x1009: 9}
"""Virtio device id by PCI device id, of transitional devices."""
CAP_VENDOR = 0x09
ISR_QUEUE, ISR_CONFIG = 1, 2


class CfgType(IntEnum):
    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


class Common(IntEnum):
    """Offsets in the common configuration structure."""

    DEVICE_FEATURE_SELECT = 0x00
    DEVICE_FEATURE = 0x04
    DRIVER_FEATURE_SELECT = 0x08
    DRIVER_FEATURE = 0x0C
    CONFIG_MSIX_VECTOR = 0x10
    NUM_QUEUES = 0x12
    DEVICE_STATUS = 0x14
    CONFIG_GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_MSIX_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFF = 0x1E
    QUEUE_DESC = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30
    QUEUE_NOTIF_CONFIG_DATA = 0x38
    QUEUE_RESET = 0x3A


COMMON_SIZE = 0x3C
_ENDS = [*Common, COMMON_SIZE]
SIZES = {field: _ENDS[at + 1] - field for at, field in enumerate(Common)}
"""Bytes of each field; 64-bit fields may be accessed in halves."""


@attrs.frozen
class Structure:
    """The location of a virtio structure, from its vendor capability (section 4.1.4)."""

    kind: int
    bar: int
    offset: int
    length: int
    multiplier: int = 0
    """Bytes between the notification addresses of two queues; 0 for other structures."""

    _FORM = struct.Struct("<BBBBxxII")

    def emit(self) -> bytes:
        """Return the capability's body, from cap_len on."""
        extra = 4 if self.kind in (CfgType.NOTIFY, CfgType.PCI) else 0
        body = self._FORM.pack(2 + self._FORM.size + extra, self.kind, self.bar, 0, self.offset, self.length)
        return body + (self.multiplier.to_bytes(4, "little") if extra else b"")

    @classmethod
    def parse(cls, body: bytes) -> Structure:
        """Parse the capability's bytes after id and next; extra bytes are ignored (section 4.1.4.1)."""
        cap_len, kind, bar, _, offset, length = cls._FORM.unpack_from(body)
        multiplier = int.from_bytes(body[14:18], "little") if kind == CfgType.NOTIFY and cap_len >= 20 else 0
        return cls(kind, bar, offset, length, multiplier)
