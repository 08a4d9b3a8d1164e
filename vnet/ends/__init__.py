"""Device types as systems use them: a folder per type, whose record is one line of the registry."""

from __future__ import annotations

from typing import Any

from drivers.virtio_type import VirtioType
from vnet.ends.base import OpenContext, PlainEnd
from vnet.ends.blk import BLK
from vnet.ends.kind import DeviceKind
from vnet.ends.net import NET
from vnet.ends.rpmsg import RPMSG
from vnet.ends.running import EXERCISE_SIZE, Demo, DemoSettings, Exercise, RunningDevice, Sections
from vnet.ends.scsi import SCSI
from vnet.ends.serve import VALUE, QemuDevice, Serve, ServeOption
from vnet.ends.settings import Setting
from vnet.registry import Registry
from vnet.spec import DeviceSpec

__all__ = [
    "DEVICE_TYPES",
    "EXERCISE_SIZE",
    "VALUE",
    "Demo",
    "DemoSettings",
    "DeviceKind",
    "Exercise",
    "OpenContext",
    "PlainEnd",
    "QemuDevice",
    "RunningDevice",
    "Sections",
    "Serve",
    "ServeOption",
    "Setting",
]


def _check(name: str, kind: DeviceKind[Any, Any]) -> None:
    spec: object = kind.spec
    if not (isinstance(spec, type) and issubclass(spec, DeviceSpec)):
        raise ValueError(f"spec of device type {name} = {spec!r}: must be a class derived from DeviceSpec")
    parts: dict[str, tuple[object, type | tuple[type, ...], str]] = {
        "virtio": (getattr(spec, "virtio", None), VirtioType, "a VirtioType"),
        "demo": (kind.demo, (Demo, type(None)), "a Demo or None"),
        "serve": (kind.serve, Serve, "a Serve"),
    }
    for key, (part, classes, must) in parts.items():
        if not isinstance(part, classes):
            raise ValueError(f"{key} of device type {name} = {part!r}: must be {must}")


DEVICE_TYPES: Registry[DeviceKind[Any, Any]] = Registry(
    "vnet.device_types", DeviceKind, {"net": NET, "rpmsg": RPMSG, "blk": BLK, "scsi": SCSI}, _check
)
"""Device types by name."""
