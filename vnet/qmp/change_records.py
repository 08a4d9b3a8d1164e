"""Arguments and results of the commands that change a running system. Imported by clients: imports little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from vnet.qmp.qapi import QapiRecord

__all__ = [
    "ChangeStep",
    "DeviceAddition",
    "DeviceDeletion",
    "LunAddition",
    "PartChoice",
    "SideChoice",
    "TopologyChange",
    "WantedTopology",
]


@attrs.frozen
class TopologyChange(QapiRecord):
    """Arguments that add parts."""

    topology: Mapping[str, Any]
    """Tables of a topology file, as JSON: hosts, links, ntbs, devices. They may refer to running parts."""
    file: str = "topology"
    """Name of the file in errors."""


@attrs.frozen
class LunAddition(QapiRecord):
    """Arguments that add a LUN to a running SCSI host."""

    name: str
    """Name of the device."""
    lun: Mapping[str, Any]
    """Keys of an entry of ``luns`` in a topology file, as JSON: target, lun, store, path, size and others."""
    file: str = "topology"
    """Name of the file in errors."""


@attrs.frozen
class WantedTopology(TopologyChange):
    """Arguments that describe the whole system as it is to be."""

    preview: bool = False
    """Whether the steps are returned only, and nothing is changed."""


@attrs.frozen
class PartChoice(QapiRecord):
    """Arguments that name a part."""

    name: str
    """Name of the host, link, NTB or device; as table.name, such as links.pcie0, if two parts have the name. A LUN of a
    device is DEVICE:TARGET:LUN, such as scsi0:0:1."""
    surprise: bool = False
    """Whether the part is pulled like a card: its drivers notice afterwards. Default: drivers are unbound first."""


@attrs.frozen
class SideChoice(QapiRecord):
    """Arguments that name a side of a device."""

    name: str
    """Name of the device."""
    side: Literal["driver", "device"]
    """The driver, or the device type at the device's own end."""


@attrs.frozen
class DeviceAddition(QapiRecord):
    """Arguments that add a device."""

    driver: str
    """Device type, such as net."""
    id: str
    """Name of the device, which must be new."""
    bus: str | None = None
    """Name of its link, NTB or host, as its transport needs."""
    properties: Mapping[str, Any] = attrs.field(factory=dict)
    """Other keys of a device in topology files, such as transport. They may also be arguments themselves; names with
    dots, such as driver.kind, are keys of tables."""


@attrs.frozen
class DeviceDeletion(QapiRecord):
    """Arguments that remove a device."""

    id: str
    """Name of the device."""


@attrs.frozen
class ChangeStep(QapiRecord):
    """A step of a change."""

    action: str
    """Either add or remove."""
    kind: str
    """Either host, link, ntb, device or lun."""
    name: str
    why: str = ""
    """Keys that differ, or the part that it is on; empty if only one of both topologies has it."""
