"""Arguments and results of the commands about the protocol and the system."""

from __future__ import annotations

from typing import Literal

import attrs

from vnet.capture.recorder import SNAP_LENGTH
from vnet.qmp.events import EVENTS
from vnet.qmp.qapi import QapiRecord

__all__ = [
    "CaptureChoice",
    "CommandInfo",
    "DeviceChoice",
    "EventChoice",
    "LinkChoice",
    "LinkMove",
    "LinkSetting",
    "Negotiation",
    "RingChoice",
    "RingsChoice",
    "SettingChange",
    "StatusInfo",
    "VersionInfo",
    "VersionTriple",
]


@attrs.frozen
class Negotiation(QapiRecord):
    """Arguments of the negotiation."""

    enable: tuple[str, ...] = ()
    """Capabilities to use."""


@attrs.frozen
class VersionTriple(QapiRecord):
    """Three numbers of a version."""

    major: int
    minor: int
    micro: int


@attrs.frozen
class VersionInfo(QapiRecord):
    """Version of the server."""

    qemu: VersionTriple
    """Version of vnet; QEMU's clients expect the key."""
    package: str
    """Name of the program, with its version."""


@attrs.frozen
class CommandInfo(QapiRecord):
    """A command."""

    name: str


@attrs.frozen
class EventChoice(QapiRecord):
    """Arguments that choose events."""

    events: tuple[str, ...] = tuple(EVENTS)
    """Names of the events; default: all."""


@attrs.frozen
class StatusInfo(QapiRecord):
    """State of the system."""

    running: bool
    """Whether it runs: always."""
    status: Literal["running"]


@attrs.frozen
class RingChoice(QapiRecord):
    """Arguments that name a queue."""

    name: str
    """Name of the device."""
    queue: str
    """Name of the queue, such as transmitq1."""


@attrs.frozen
class RingsChoice(QapiRecord):
    """Arguments that name queues of a device."""

    name: str
    """Name of the device."""
    queues: tuple[str, ...]
    """Names of the queues."""


@attrs.frozen
class LinkMove(QapiRecord):
    """Arguments that move a link."""

    name: str
    """Name of the link."""
    up: bool
    """Whether the link is up afterwards."""


@attrs.frozen
class LinkChoice(QapiRecord):
    """Arguments that name a link."""

    name: str
    """Name of the link."""


@attrs.frozen
class LinkSetting(QapiRecord):
    """Arguments that change a setting of a link."""

    name: str
    """Name of the link."""
    setting: str
    """Name of the setting: a key of the link in topology files that makes accesses take time, such as lanes."""
    value: str
    """New value."""


@attrs.frozen
class DeviceChoice(QapiRecord):
    """Arguments that name a device."""

    name: str
    """Name of the device."""


@attrs.frozen
class SettingChange(QapiRecord):
    """Arguments that change a setting."""

    name: str
    """Name of the device."""
    setting: str
    """Name of the setting; `vnet set --help` lists them."""
    value: str
    """New value."""


@attrs.frozen
class CaptureChoice(QapiRecord):
    """Arguments that choose what is captured. An empty list: all."""

    on: tuple[str, ...] = ()
    """Names of devices and links; a link stands also for the devices on it."""
    events: tuple[str, ...] = ()
    """Kinds of events, such as frames."""
    filters: tuple[str, ...] = ()
    """Conditions that all must hold, such as "ring.written > 1000"."""
    snaplen: int = SNAP_LENGTH
    """Bytes of a frame that are captured."""
