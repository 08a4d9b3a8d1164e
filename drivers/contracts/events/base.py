"""Topic, time and place of an event, which all records have."""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Literal

import attrs

__all__ = ["HEX", "Event", "Source", "Topic"]

HEX: dict[str, Any] = {"base": 16}
"""Metadata of record fields that people read as hexadecimal, such as addresses."""


class Topic(Enum):
    """Kinds of events that a sink can choose."""

    LIFECYCLE = "lifecycle"
    """Status, features, queues, resets, drivers bound to devices, and ports and back ends that come and go."""
    LOSSES = "losses"
    """Dropped packets, and lost notifications."""
    LINKS = "links"
    """Links that go up and down, and injected faults."""
    VHOST_USER = "vhost-user"
    """Messages of vhost-user connections."""
    CONTROL = "control"
    """Commands of the control socket."""
    FRAMES = "frames"
    """Frames that enter and leave ports."""
    RINGS = "rings"
    """Chains and notifications of virtqueues."""
    REGISTERS = "registers"
    """Accesses to registers and configuration space."""
    TLPS = "tlps"
    """Requests on links, memory accesses of devices, and interrupts."""


@attrs.frozen
class Source:
    """Place of an event."""

    host: str = ""
    """Name of the host; empty for events of a link or of the whole system."""
    device: str = ""
    """Name of the device in the topology; empty for events of a host or a link."""
    side: Literal["driver", "device", ""] = ""
    queue: str = ""
    """Name of the queue, such as transmitq1."""
    link: str = ""
    """Name of the link that the event is on; empty for events of rings and ports."""
    port: str = ""
    """Name of the port, such as its interface."""


@attrs.frozen
class Event:
    """Something that happened. ``time`` is in seconds of the run's clock, see `trio.current_time`."""

    topic: ClassVar[Topic]

    time: float
    source: Source
