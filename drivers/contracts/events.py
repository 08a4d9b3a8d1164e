"""Records of what happens in a running system, and the interface by which code emits them.

Code is handed an `Events`, mostly within a `Reporter` with the place of its events. `Events` has an attribute per
`Topic`: the function that takes the topic's records; while nothing listens, it is None, and no record is built.

`vnet.system.events` distributes the records to sinks, such as the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import ClassVar, Concatenate, Literal, ParamSpec

import attrs
import trio

__all__ = [
    "NO_EVENTS",
    "SILENT",
    "SILENT_HOST",
    "BackEndMoved",
    "BindMoved",
    "ControlCommanded",
    "DeviceReset",
    "Emit",
    "Event",
    "Events",
    "FaultInjected",
    "FeaturesNegotiated",
    "HostEvents",
    "LinkMoved",
    "MessagePassed",
    "NeedsResetSet",
    "NotificationsRescued",
    "PacketsDropped",
    "PortLost",
    "QueueEnabled",
    "QueueStopped",
    "Reporter",
    "Source",
    "StatusChanged",
    "Topic",
]

P = ParamSpec("P")


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


Emit = Callable[[Event], None]
"""Takes an event. Never raises and never waits."""


@attrs.define(eq=False)
class Events:
    """Functions that take the events of each topic; None while no sink wants them."""

    lifecycle: Emit | None = None
    losses: Emit | None = None
    links: Emit | None = None
    vhost_user: Emit | None = None
    control: Emit | None = None


NO_EVENTS = Events()
"""Events of code that runs outside any system: nothing ever listens."""


@attrs.frozen(eq=False)
class Reporter:
    """Emits the events of one place."""

    events: Events
    source: Source

    def of_queue(self, name: str) -> Reporter:
        """Return the reporter of a queue of this place."""
        return Reporter(self.events, attrs.evolve(self.source, queue=name))

    def lifecycle(
        self, record: Callable[Concatenate[float, Source, P], Event], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Emit a record with these fields if a sink wants the topic."""
        if (emit := self.events.lifecycle) is not None:
            emit(record(trio.current_time(), self.source, *args, **kwargs))

    def message(self, sent: bool, request: str, size: int, fds: int) -> None:
        """Emit a `MessagePassed` if a sink wants it."""
        if (emit := self.events.vhost_user) is not None:
            emit(MessagePassed(trio.current_time(), self.source, sent, request, size, fds))


SILENT = Reporter(NO_EVENTS, Source())
"""Reporter of code that runs outside any system."""


@attrs.frozen(eq=False)
class HostEvents:
    """The events of a host, for its buses."""

    events: Events
    host: str
    """Name of the host."""
    names: Mapping[str, str]
    """Name in the topology of each device, by its location on the host."""

    def driver(self, location: str) -> Reporter:
        """Return the reporter of the driver's side of the device at ``location``."""
        return Reporter(self.events, Source(self.host, self.names.get(location, location), "driver"))

    def carrier(self, location: str) -> Reporter:
        """Return the reporter of the carrier at ``location``, such as a PCI function."""
        return Reporter(self.events, Source(self.host, self.names.get(location, location)))


SILENT_HOST = HostEvents(NO_EVENTS, "", {})
"""Events of a host outside any system."""
