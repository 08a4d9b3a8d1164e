"""The events of the control socket: for each, the record of its data, and the record of the system that it is made of.

`EVENTS` is the one table of them: the queues of clients, the schema and the reference are made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from drivers.contracts.events import (
    BackEndMoved,
    BindMoved,
    DeviceReset,
    Event,
    FaultInjected,
    FaultRuleEnded,
    FaultRuleSet,
    FeaturesNegotiated,
    FrontEndMoved,
    LinkErrorDetected,
    LinkMoved,
    LinkTimingChanged,
    NeedsResetSet,
    NotificationsRescued,
    PacketsDropped,
    PartMoved,
    PciErrorHandled,
    PortLost,
    QueueEnabled,
    QueueStopped,
    Source,
    StatusChanged,
)
from vnet.qmp.qapi import QapiRecord

__all__ = ["BY_RECORD", "EVENTS", "LOST", "PERIPHERAL", "SHUTDOWN", "EventKind", "EventsLost", "Shutdown", "event_data"]

SHUTDOWN = "SHUTDOWN"
LOST = "VNET_EVENTS_LOST"
PERIPHERAL = "/machine/peripheral/{}"
"""Path of a device, as in QEMU."""


@attrs.frozen(kw_only=True)
class Place(QapiRecord):
    """Place of an event; names that do not apply are left out."""

    device: str | None = None
    """Name of the device."""
    host: str | None = None
    """Name of the host."""
    side: Literal["driver", "device"] | None = None
    """Side of the device that reports the event."""


@attrs.frozen(kw_only=True)
class QueuePlace(Place):
    """Place of an event, with the queue."""

    queue: str | None = None
    """Name of the queue, such as transmitq1."""


@attrs.frozen(kw_only=True)
class LinkState(QapiRecord):
    """State of a link."""

    link: str
    """Name of the link."""
    epoch: int
    """Number of the epoch that begins, or is over."""


@attrs.frozen(kw_only=True)
class Fault(QapiRecord):
    """An injected fault."""

    link: str
    """Name of the link."""
    request: str
    """Kind of request, such as doorbell."""
    fault: str
    rule: str
    """Name of the rule that injected it."""


@attrs.frozen(kw_only=True)
class RuleStart(QapiRecord):
    """A rule of faults that began."""

    link: str
    """Name of the link."""
    rule: str
    """Name of the rule."""
    fault: str
    """Name of the fault, such as lost_doorbells."""
    amount: str
    """How many requests are affected, in words."""
    seconds: float
    """Seconds until the rule ends; 0: it stays until it is cleared."""


@attrs.frozen(kw_only=True)
class RuleEnd(QapiRecord):
    """A rule of faults that ended."""

    link: str
    """Name of the link."""
    rule: str
    """Name of the rule."""
    fault: str
    """Name of the fault, such as lost_doorbells."""
    cause: str
    """Either cleared, replaced or expired."""
    requests: int
    """Requests that the rule judged."""
    faults: int
    """Faults that it injected."""


@attrs.frozen(kw_only=True)
class LinkError(QapiRecord):
    """An error that a port of a link detected."""

    link: str
    """Name of the link."""
    port: Literal["root", "endpoint"]
    error: str
    """Name of the error, as in Advanced Error Reporting."""
    severity: Literal["correctable", "non-fatal", "fatal"]
    header: str
    """First bytes of the TLP that the error is about, in hexadecimal; empty without one."""


@attrs.frozen(kw_only=True)
class PciErrors(QapiRecord):
    """Errors that a PCI function or a root port reported."""

    link: str
    """Name of the link."""
    location: str
    """Name of the function or the root port as lspci shows it."""
    severity: Literal["correctable", "non-fatal", "fatal"]
    """The link is reset because of fatal ones."""
    errors: tuple[str, ...]
    """Names of the errors, as in Advanced Error Reporting."""
    header: str
    """Header of the TLP of the first error, as four hexadecimal words; empty without one."""


@attrs.frozen(kw_only=True)
class LinkTime(QapiRecord):
    """The time that accesses take on a link."""

    link: str
    """Name of the link."""
    generation: int
    """PCI Express generation."""
    lanes: int
    rate: float
    """Bytes per second and direction, for packets with their framing."""
    read_latency_ns: float
    """Nanoseconds from a read to its completion, besides the transfer."""


@attrs.frozen(kw_only=True)
class DeviceStatus(Place):
    """A new device status."""

    status: int
    """Bits of VIRTIO 1.4 section 2.1."""


@attrs.frozen(kw_only=True)
class Features(Place):
    """Negotiated features."""

    names: tuple[str, ...]
    """Names of the accepted features."""


@attrs.frozen(kw_only=True)
class Reset(Place):
    """A reset."""

    cause: str | None = None
    """Reason of the driver; absent at the device's side, which gets none."""
    repeats: int
    """Resets in a row for that reason, this one included; 0 at the device's side."""


@attrs.frozen(kw_only=True)
class Cause(Place):
    """The reason of an event."""

    cause: str


@attrs.frozen(kw_only=True)
class QueueSize(QueuePlace):
    """An enabled queue."""

    num: int
    """Size in descriptors."""


@attrs.frozen(kw_only=True)
class QueueFault(QueuePlace):
    """A broken queue."""

    cause: str
    """Rule that the other side violated, or access that failed."""
    section: str | None = None
    """Section of VIRTIO 1.4 with the rule."""


@attrs.frozen(kw_only=True)
class DriverState(Place):
    """State of a device on its bus."""

    driver: str | None = None
    """Name of the driver; absent if there is none."""
    state: str
    """New state, such as bound or deferred."""
    why: str | None = None
    """Reason why the driver waits or failed."""


@attrs.frozen(kw_only=True)
class Loss(Place):
    """A lost port or back end."""

    why: str


@attrs.frozen(kw_only=True)
class Disconnection(Place):
    """A front end that is gone."""

    why: str | None = None
    """Reason why the connection was closed; absent if the front end closed it."""


@attrs.frozen(kw_only=True)
class Connection(Place):
    """A connected back end or front end."""

    connections: int
    """Connections so far, this one included."""


@attrs.frozen(kw_only=True)
class Drops(QueuePlace):
    """Dropped packets."""

    place: str
    """Counter, such as port or received."""
    cause: str
    count: int
    """Packets since the last event with this place and cause."""


@attrs.frozen(kw_only=True)
class Rescues(QueuePlace):
    """Lost notifications."""

    count: int
    """Lost notifications since the last event of this queue."""


@attrs.frozen(kw_only=True)
class Part(QapiRecord):
    """A part of the system."""

    kind: str
    """Either host, link, ntb, device or lun."""
    name: str


@attrs.frozen(kw_only=True)
class DeletedDevice(QapiRecord):
    """A device that is gone."""

    device: str
    """Name of the device."""
    path: str
    """Path of the device, as in QEMU."""


@attrs.frozen(kw_only=True)
class Shutdown(QapiRecord):
    """The end of the system."""

    guest: bool
    """Always false: no driver can end the system."""
    reason: Literal["host-qmp-quit", "host-signal"]
    """The command quit; or a signal, or the end of the program of `vnet up --exec`."""


@attrs.frozen(kw_only=True)
class EventsLost(QapiRecord):
    """Events that the client did not get."""

    count: int
    """Events since the last one before this."""


@attrs.frozen
class EventKind:
    """An event of the control socket."""

    about: str
    data: type[QapiRecord]
    """Record of the data."""
    record: type[Event] | None = None
    """Record of the system that it is made of; None if the server makes it."""
    when: Callable[[Any], bool] = lambda _: True
    """Returns whether it is made of this record."""


EVENTS: Mapping[str, EventKind] = {
    "VNET_LINK_UP": EventKind("A link went up.", LinkState, LinkMoved, lambda event: event.up),
    "VNET_LINK_DOWN": EventKind("A link went down.", LinkState, LinkMoved, lambda event: not event.up),
    "VNET_FAULT_INJECTED": EventKind("A link injected a fault.", Fault, FaultInjected),
    "VNET_FAULT_RULE_SET": EventKind("A rule of faults was set on a link.", RuleStart, FaultRuleSet),
    "VNET_FAULT_RULE_ENDED": EventKind("A rule of faults ended.", RuleEnd, FaultRuleEnded),
    "VNET_LINK_ERROR": EventKind("A port of a link detected an error.", LinkError, LinkErrorDetected),
    "VNET_PCI_ERROR": EventKind("A PCI function or a root port reported errors.", PciErrors, PciErrorHandled),
    "VNET_LINK_TIME_CHANGED": EventKind("The time that a link takes was changed.", LinkTime, LinkTimingChanged),
    "VNET_DEVICE_STATUS_CHANGED": EventKind("The device status changed.", DeviceStatus, StatusChanged),
    "VNET_FEATURES_NEGOTIATED": EventKind("The driver set FEATURES_OK.", Features, FeaturesNegotiated),
    "VNET_DEVICE_RESET": EventKind("The driver reset the device.", Reset, DeviceReset),
    "VNET_DEVICE_NEEDS_RESET": EventKind("The device set DEVICE_NEEDS_RESET.", Cause, NeedsResetSet),
    "VNET_QUEUE_ENABLED": EventKind("A queue became usable.", QueueSize, QueueEnabled),
    "VNET_QUEUE_STOPPED": EventKind("A queue was stopped.", QueuePlace, QueueStopped, lambda event: not event.cause),
    "VNET_QUEUE_BROKEN": EventKind("A queue broke.", QueueFault, QueueStopped, lambda event: bool(event.cause)),
    "VNET_DRIVER_STATE_CHANGED": EventKind("A device changed its state on its bus.", DriverState, BindMoved),
    "VNET_PORT_LOST": EventKind("A port was removed while it was used.", Loss, PortLost),
    "VNET_BACK_END_CONNECTED": EventKind(
        "A vhost-user back end connected.", Connection, BackEndMoved, lambda event: event.connected
    ),
    "VNET_BACK_END_DISCONNECTED": EventKind(
        "A vhost-user back end disconnected.", Loss, BackEndMoved, lambda event: not event.connected
    ),
    "VNET_FRONT_END_CONNECTED": EventKind(
        "A front end or client of a served device connected.", Connection, FrontEndMoved, lambda event: event.connected
    ),
    "VNET_FRONT_END_DISCONNECTED": EventKind(
        "A front end or client of a served device disconnected.",
        Disconnection,
        FrontEndMoved,
        lambda event: not event.connected,
    ),
    "VNET_PACKETS_DROPPED": EventKind("Packets were dropped. Once a second at most.", Drops, PacketsDropped),
    "VNET_NOTIFICATIONS_RESCUED": EventKind(
        "Re-checks found work whose notification was lost. Once a second at most.", Rescues, NotificationsRescued
    ),
    "VNET_PART_ADDED": EventKind("A part was added.", Part, PartMoved, lambda event: event.present),
    "VNET_PART_REMOVED": EventKind("A part was removed.", Part, PartMoved, lambda event: not event.present),
    "DEVICE_DELETED": EventKind(
        "A device was removed.", DeletedDevice, PartMoved, lambda event: event.kind == "device" and not event.present
    ),
    LOST: EventKind("The client read too slowly, and events after the last one were dropped.", EventsLost),
    SHUTDOWN: EventKind("The system ends.", Shutdown),
}
"""Events by name."""
BY_RECORD: Mapping[type[Event], Mapping[str, EventKind]] = {
    record: {name: kind for name, kind in EVENTS.items() if kind.record is record}
    for record in dict.fromkeys(kind.record for kind in EVENTS.values())
    if record is not None
}
"""Events by the record that they are made of."""
PLACE = frozenset(field.name for field in attrs.fields(Source))


def event_data(kind: EventKind, event: Event) -> QapiRecord:
    """Return the data of a record: the names of its place, and its fields. Optional members that are empty are None."""
    values: dict[str, Any] = {}
    for field in attrs.fields(kind.data):
        value = _field(event, field.name)
        values[field.name] = None if field.default is None and value == "" else value
    return kind.data(**values)


def _field(event: Event, name: str) -> Any:
    """Return the value of a member of an event: a name of its place, its path, or a field of its record."""
    if name == "path":
        return PERIPHERAL.format(event.source.device)
    return getattr(event.source if name in PLACE else event, name)
