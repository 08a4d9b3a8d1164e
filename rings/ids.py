"""Virtio device ids (VIRTIO 1.4 section 5); rpmsg has an id but no normative chapter."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ANY_ID", "DeviceId"]

ANY_ID = 0xFFFF_FFFF
"""Matches every device or vendor id in an id table."""


class DeviceId(IntEnum):
    NET = 1
    BLOCK = 2
    CONSOLE = 3
    ENTROPY = 4
    RPMSG = 7
    SCSI = 8
