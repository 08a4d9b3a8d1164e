"""Virtio device ids (VIRTIO 1.4 section 5); rpmsg has an id but no normative section."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ANY_ID", "DeviceId"]

ANY_ID = 0xFFFF_FFFF
"""Wildcard for device and vendor ids in id tables."""


class DeviceId(IntEnum):
    """Virtio device ids."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    ENTROPY = 4
    RPMSG = 7
    SCSI = 8
