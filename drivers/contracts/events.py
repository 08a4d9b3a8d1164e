"""Records of all that happens in a running system, and the interface by which code emits them.

An emitter is handed an `Events`. It has an attribute per `Topic`: the function that takes the topic's records, or None
while nothing listens. Emitters test it once per batch, and build no record while it is None:

    if (emit := events.rings) is not None:
        emit(ChainTaken(trio.current_time(), source, serial, ...))

`vnet.system.events` distributes the records to sinks: log, trace, capture, timeline, QMP, live views.

Ids join the records of one frame. Both sides of a queue count its chains from 0 since it was enabled, so the driver's
nth chain is the device's nth chain (if the device takes them in order, as all devices here do): a chain is named by its
device, its queue and its ``serial``. A frame carries the serial of the chain that holds its first byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import ClassVar, Literal

import attrs

__all__ = [
    "NO_EVENTS",
    "BindMoved",
    "ChainAdded",
    "ChainCompleted",
    "ChainReturned",
    "ChainTaken",
    "ConfigAccess",
    "ControlCommanded",
    "DeviceReset",
    "DmaDone",
    "Emit",
    "Event",
    "Events",
    "FaultInjected",
    "FeaturesNegotiated",
    "FrameDropped",
    "FrameReceived",
    "FrameSent",
    "LinkMoved",
    "MessagePassed",
    "NeedsResetSet",
    "Notified",
    "QueueEnabled",
    "QueueStopped",
    "RegisterAccess",
    "Source",
    "StatusChanged",
    "TlpSent",
    "Topic",
]


class Topic(Enum):
    """Kinds of events that a sink can choose."""

    LIFECYCLE = "lifecycle"
    """Status, features, queues, resets, and drivers bound to devices."""
    RINGS = "rings"
    """Chains and notifications."""
    FRAMES = "frames"
    """Frames that enter and leave ports."""
    REGISTERS = "registers"
    """Accesses to configuration space and registers."""
    TLPS = "tlps"
    """Packets on links, memory accesses of devices, and interrupts."""
    LINKS = "links"
    """Links that go up and down, and injected faults."""
    VHOST_USER = "vhost-user"
    """Messages of vhost-user connections."""
    CONTROL = "control"
    """Commands of the control socket."""


@attrs.frozen
class Source:
    """Place of an event. Emitters make one and use it for all their events."""

    host: str
    device: str = ""
    """Name of the device in the topology; empty for events of a host or a link."""
    side: Literal["driver", "device", ""] = ""
    queue: str = ""
    """Name of the queue, such as transmitq1."""
    link: str = ""


@attrs.frozen
class Event:
    """Something that happened. ``time`` is in seconds of the run's clock, see `trio.current_time`."""

    topic: ClassVar[Topic]

    time: float
    source: Source


# Lifecycle


@attrs.frozen
class StatusChanged(Event):
    """The device status changed, as one side sees it (VIRTIO 1.4 section 2.1)."""

    topic = Topic.LIFECYCLE
    status: int


@attrs.frozen
class FeaturesNegotiated(Event):
    """The driver set FEATURES_OK (section 2.2)."""

    topic = Topic.LIFECYCLE
    offered: int
    accepted: int


@attrs.frozen
class QueueEnabled(Event):
    """A queue became usable."""

    topic = Topic.LIFECYCLE
    format: str
    """Either split or packed."""
    num: int


@attrs.frozen
class QueueStopped(Event):
    """A queue was reset, or broke."""

    topic = Topic.LIFECYCLE
    cause: str
    """Rule that the other side violated, with its section; empty for a reset."""


@attrs.frozen
class DeviceReset(Event):
    """The device was reset (section 2.4)."""

    topic = Topic.LIFECYCLE
    cause: str
    """Reason of the driver; empty on the device's side, which is not told."""


@attrs.frozen
class NeedsResetSet(Event):
    """The device set DEVICE_NEEDS_RESET."""

    topic = Topic.LIFECYCLE
    cause: str


@attrs.frozen
class BindMoved(Event):
    """A device on a bus changed its state, such as bound or deferred."""

    topic = Topic.LIFECYCLE
    driver: str
    state: str
    why: str
    """Reason of a deferred or failed probe; else empty."""


# Rings


@attrs.frozen
class Notified(Event):
    """One side published a batch, and notified the other unless that had suppressed it; or a notification arrived."""

    topic = Topic.RINGS
    kind: Literal["kick", "call"]
    """A kick goes to the device, a call to the driver."""
    outcome: Literal["sent", "suppressed", "arrived", "rescued"]
    """Rescued: a re-check found work, because a notification was lost."""


@attrs.frozen
class _ChainOffered(Event):
    topic = Topic.RINGS
    serial: int
    head: int
    """First descriptor (split) or buffer id (packed)."""
    readable: Sequence[int]
    """Bytes of each device-readable descriptor."""
    writable: Sequence[int]
    """Bytes of each device-writable descriptor."""


@attrs.frozen
class ChainAdded(_ChainOffered):
    """The driver added a chain."""


@attrs.frozen
class ChainTaken(_ChainOffered):
    """The device took a chain."""


@attrs.frozen
class _ChainUsed(Event):
    topic = Topic.RINGS
    serial: int
    head: int
    written: int
    """Bytes."""


@attrs.frozen
class ChainCompleted(_ChainUsed):
    """The device marked a chain as used."""


@attrs.frozen
class ChainReturned(_ChainUsed):
    """The driver took a used chain back."""


# Frames


@attrs.frozen
class _Frame(Event):
    topic = Topic.FRAMES
    serial: int
    """Chain that holds its first byte."""
    header: bytes
    """virtio_net_hdr (section 5.1.9)."""
    frame: bytes
    """Ethernet frame, or its start."""
    size: int
    """Bytes of the whole frame."""


@attrs.frozen
class FrameReceived(_Frame):
    """A frame from the outside entered through a port."""


@attrs.frozen
class FrameSent(_Frame):
    """A frame left through a port."""


@attrs.frozen
class FrameDropped(Event):
    """Frames or messages were dropped."""

    topic = Topic.FRAMES
    cause: str
    count: int = 1


# Registers and configuration


@attrs.frozen
class RegisterAccess(Event):
    """A register was read or written over a link, or in a platform region."""

    topic = Topic.REGISTERS
    write: bool
    register: str
    """Name of the register, or its region and offset if it has none."""
    addr: int
    size: int
    value: int


@attrs.frozen
class ConfigAccess(Event):
    """Configuration space was read or written."""

    topic = Topic.REGISTERS
    write: bool
    function: int
    offset: int
    size: int
    value: int


# Links


@attrs.frozen
class TlpSent(Event):
    """A request crossed a link. Requests of one access that is cut into several TLPs are one event."""

    topic = Topic.TLPS
    kind: str
    """MRd, MWr, CfgRd, CfgWr, Msg or MSI."""
    downstream: bool
    """Whether it goes from the root complex to the endpoint."""
    function: int
    addr: int
    size: int
    """Bytes of data."""
    value: int | None = None
    """Value read or written; None if it is not one word."""


@attrs.frozen
class DmaDone(Event):
    """A device accessed the driver's memory: the bytes that it really moved, not the size of its view."""

    topic = Topic.TLPS
    write: bool
    size: int
    serial: int
    """Chain whose buffers they are."""


@attrs.frozen
class LinkMoved(Event):
    """A link went up or down."""

    topic = Topic.LINKS
    up: bool
    epoch: int


@attrs.frozen
class FaultInjected(Event):
    """A link lost, delayed or corrupted a request on purpose."""

    topic = Topic.LINKS
    request: str
    fault: str
    addr: int = 0


# Other processes


@attrs.frozen
class MessagePassed(Event):
    """A vhost-user message was sent or received."""

    topic = Topic.VHOST_USER
    sent: bool
    request: str
    size: int
    fds: int
    reply: bool = False


@attrs.frozen
class ControlCommanded(Event):
    """A client of the control socket sent a command."""

    topic = Topic.CONTROL
    command: str
    outcome: str
    """Empty if it succeeded, else the error."""


Emit = Callable[[Event], None]
"""Takes an event. Never raises and never waits."""


@attrs.define(eq=False)
class Events:
    """Functions that take the events of each topic; None while no sink wants them."""

    lifecycle: Emit | None = None
    rings: Emit | None = None
    frames: Emit | None = None
    registers: Emit | None = None
    tlps: Emit | None = None
    links: Emit | None = None
    vhost_user: Emit | None = None
    control: Emit | None = None


NO_EVENTS = Events()
"""Events of code that runs outside any system: nothing ever listens."""
