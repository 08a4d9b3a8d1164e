"""Records of changes of state of devices, ports, links and back ends, of losses, and of other processes' requests."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from drivers.contracts.events.base import HEX, Event, Topic

__all__ = [
    "BackEndMoved",
    "BindMoved",
    "ControlCommanded",
    "DeviceReset",
    "FaultInjected",
    "FaultRuleEnded",
    "FaultRuleSet",
    "FeaturesNegotiated",
    "FrontEndMoved",
    "LinkMoved",
    "LinkErrorDetected",
    "LinkTimingChanged",
    "MessagePassed",
    "NeedsResetSet",
    "NotificationsRescued",
    "PacketsDropped",
    "PartMoved",
    "PciErrorHandled",
    "PortLost",
    "QueueEnabled",
    "QueueStopped",
    "StatusChanged",
]


# Lifecycle


@attrs.frozen
class StatusChanged(Event):
    """The device status changed, as one side sees it (VIRTIO 1.4 section 2.1)."""

    topic = Topic.LIFECYCLE
    status: int = attrs.field(metadata=HEX)


@attrs.frozen
class FeaturesNegotiated(Event):
    """The driver set FEATURES_OK (section 2.2)."""

    topic = Topic.LIFECYCLE
    offered: int = attrs.field(metadata=HEX)
    accepted: int = attrs.field(metadata=HEX)
    names: Sequence[str]
    """Names of the accepted features."""


@attrs.frozen
class QueueEnabled(Event):
    """A queue became usable."""

    topic = Topic.LIFECYCLE
    num: int
    """Size in descriptors."""


@attrs.frozen
class QueueStopped(Event):
    """A queue was stopped, or broke."""

    topic = Topic.LIFECYCLE
    cause: str = ""
    """Rule that the other side violated, or access that failed; empty if the queue did not break."""
    section: str = ""
    """Section of the VIRTIO specification with the rule, such as 2.7.5.2; empty if there is none."""


@attrs.frozen
class DeviceReset(Event):
    """The device was reset (section 2.4)."""

    topic = Topic.LIFECYCLE
    cause: str = ""
    """Reason of the driver; empty on the device's side, which gets none."""
    repeats: int = 0
    """Resets in a row for that reason, this one included; 0 on the device's side."""


@attrs.frozen
class NeedsResetSet(Event):
    """The device set DEVICE_NEEDS_RESET (section 2.1.2)."""

    topic = Topic.LIFECYCLE
    cause: str


@attrs.frozen
class BindMoved(Event):
    """A device on a bus changed its state, such as bound or deferred."""

    topic = Topic.LIFECYCLE
    driver: str
    """Name of the driver; empty if there is none."""
    state: str
    """A state of `drivers.bus.binding.BindState`."""
    why: str
    """Reason why the probe was deferred or failed, or why the driver waits; else empty."""


@attrs.frozen
class PortLost(Event):
    """A port was removed while it was used."""

    topic = Topic.LIFECYCLE
    why: str


@attrs.frozen
class BackEndMoved(Event):
    """A vhost-user back end connected or disconnected."""

    topic = Topic.LIFECYCLE
    connected: bool
    why: str = ""
    """Reason of the disconnection."""
    connections: int = 0
    """Connections so far, this one included."""


@attrs.frozen
class FrontEndMoved(Event):
    """A front end or client of a served device connected or disconnected."""

    topic = Topic.LIFECYCLE
    connected: bool
    why: str = ""
    """Reason why we closed the connection; empty if the other side did."""
    connections: int = 0
    """Connections so far, this one included."""


# Losses


@attrs.frozen
class PacketsDropped(Event):
    """Packets, messages or requests were dropped since the last event with this place and cause."""

    topic = Topic.LOSSES
    place: str
    """Counter of the end, such as port or received."""
    cause: str
    count: int


@attrs.frozen
class NotificationsRescued(Event):
    """Re-checks found work, because notifications were lost."""

    topic = Topic.LOSSES
    count: int
    """Number since the last event of this queue."""


# Links


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
    """Kind of request, such as doorbell; link for the link itself."""
    fault: str
    rule: str
    """Name of the rule, see `FaultRuleSet`."""
    function: int = 0
    """Function that made a request upstream."""
    addr: int | None = attrs.field(default=None, metadata=HEX)
    """Address of a doorbell or an interrupt on the link; None for other requests."""
    value: int | None = attrs.field(default=None, metadata=HEX)
    """Value of the same."""


@attrs.frozen
class FaultRuleSet(Event):
    """A rule of faults began on a link."""

    topic = Topic.LINKS
    rule: str
    """Name of the rule, which no other rule of the link has then."""
    fault: str
    """Name of the fault, such as lost_doorbells."""
    amount: str
    """How many requests are affected, in words."""
    seconds: float
    """Seconds until it ends; 0: it stays until it is cleared."""


@attrs.frozen
class FaultRuleEnded(Event):
    """A rule of faults ended on a link."""

    topic = Topic.LINKS
    rule: str
    fault: str
    cause: str
    """Either cleared, replaced or expired."""
    requests: int
    """Requests that the rule judged."""
    faults: int
    """Faults that it injected."""


@attrs.frozen
class LinkTimingChanged(Event):
    """The time that a link takes was changed."""

    topic = Topic.LINKS
    generation: int
    """PCI Express generation."""
    lanes: int
    rate: float
    """Bytes per second and direction, for TLPs with their framing."""
    read_latency_ns: float
    """Nanoseconds from a read request's arrival to its first completion."""


@attrs.frozen
class LinkErrorDetected(Event):
    """A port of a link that carries packets detected an error."""

    topic = Topic.LINKS
    port: str
    """Either root or endpoint."""
    error: str
    """Name of the error, as in Advanced Error Reporting."""
    severity: str
    """Either correctable, non-fatal or fatal."""
    header: str
    """First bytes of the TLP that the error is about, in hexadecimal; empty without one."""


@attrs.frozen
class PciErrorHandled(Event):
    """The root complex's host read and cleared the error registers of a PCI function or of a root port."""

    topic = Topic.LINKS
    location: str
    """Name of the function or the root port as lspci shows it."""
    severity: str
    """Either correctable, non-fatal or fatal."""
    errors: Sequence[str]
    """Names of the errors, as in Advanced Error Reporting."""
    header: str
    """Header of the TLP of the first error, as four hexadecimal words; empty without one."""


# The system


@attrs.frozen
class PartMoved(Event):
    """A part was added to the running system, or removed from it."""

    topic = Topic.LIFECYCLE
    kind: str
    """Either host, link, ntb, device or lun."""
    name: str
    present: bool
    """Whether it was added."""


# Other processes


@attrs.frozen
class MessagePassed(Event):
    """A vhost-user message was sent or received."""

    topic = Topic.VHOST_USER
    sent: bool
    request: str
    """Name of the request, or its number if it is unknown."""
    size: int
    """Bytes of the payload."""
    fds: int
    """File descriptors that the message passes."""


@attrs.frozen
class ControlCommanded(Event):
    """A client of the control socket sent a command."""

    topic = Topic.CONTROL
    command: str
    outcome: str
    """Empty if it succeeded, else the error."""
