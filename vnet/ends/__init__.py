"""Device types as systems use them: a folder per type, whose record is one line of the registry."""

from __future__ import annotations

from typing import Any

from vnet.ends.base import End, Figures, OpenContext, PlainEnd
from vnet.ends.blk import BLK
from vnet.ends.kind import DeviceKind
from vnet.ends.net import NET
from vnet.ends.rpmsg import RPMSG
from vnet.ends.running import EXERCISE_SIZE, Demo, DemoSettings, Exercise, RunningDevice, Sections
from vnet.ends.scsi import SCSI
from vnet.ends.serve import VALUE, QemuDevice, Serve, ServeOption
from vnet.ends.settings import Setting
from vnet.registry import Registry

__all__ = [
    "DEVICE_TYPES",
    "EXERCISE_SIZE",
    "VALUE",
    "Demo",
    "DemoSettings",
    "DeviceKind",
    "End",
    "Exercise",
    "Figures",
    "OpenContext",
    "PlainEnd",
    "QemuDevice",
    "RunningDevice",
    "Sections",
    "Serve",
    "ServeOption",
    "Setting",
]

DEVICE_TYPES: Registry[DeviceKind[Any, Any]] = Registry(
    "vnet.device_types", DeviceKind, {"net": NET, "rpmsg": RPMSG, "blk": BLK, "scsi": SCSI}
)
"""Device types by name."""
