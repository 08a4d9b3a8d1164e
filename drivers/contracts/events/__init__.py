"""Records of what happens in a running system, and the interface by which code emits them.

`base` has the parts of all records, `state` and `traffic` the records, and `reporter` the interface. `RECORDS` has all
records by name, for programs that are made from their fields (`attrs.fields`).

`vnet.system.events` distributes the records to sinks, such as the log.
"""

from __future__ import annotations

from collections.abc import Mapping

from drivers.contracts.events.base import (
    HEX,
    Event,
    Source,
    Topic,
)
from drivers.contracts.events.reporter import (
    NO_EVENTS,
    SILENT,
    SILENT_HOST,
    Emit,
    Events,
    HostEvents,
    Reporter,
)
from drivers.contracts.events.state import (
    BackEndMoved,
    BindMoved,
    ControlCommanded,
    DeviceReset,
    FaultInjected,
    FeaturesNegotiated,
    LinkMoved,
    MessagePassed,
    NeedsResetSet,
    NotificationsRescued,
    PacketsDropped,
    PortLost,
    QueueEnabled,
    QueueStopped,
    StatusChanged,
)
from drivers.contracts.events.traffic import (
    Buffer,
    ChainAbandoned,
    ChainAdded,
    ChainCompleted,
    ChainEvent,
    ChainReturned,
    ChainTaken,
    ConfigAccessed,
    DmaMoved,
    FrameEvent,
    FrameReceived,
    FrameSent,
    FrameSink,
    FrameWriter,
    InterruptSent,
    Notified,
    RegisterAccessed,
    TlpSent,
)

__all__ = [
    "BackEndMoved",
    "BindMoved",
    "Buffer",
    "ChainAbandoned",
    "ChainAdded",
    "ChainCompleted",
    "ChainEvent",
    "ChainReturned",
    "ChainTaken",
    "ConfigAccessed",
    "ControlCommanded",
    "DeviceReset",
    "DmaMoved",
    "Emit",
    "Event",
    "Events",
    "FaultInjected",
    "FeaturesNegotiated",
    "FrameEvent",
    "FrameReceived",
    "FrameSent",
    "FrameSink",
    "FrameWriter",
    "HEX",
    "HostEvents",
    "InterruptSent",
    "LinkMoved",
    "MessagePassed",
    "NO_EVENTS",
    "NeedsResetSet",
    "NotificationsRescued",
    "Notified",
    "PacketsDropped",
    "PortLost",
    "QueueEnabled",
    "QueueStopped",
    "RECORDS",
    "RegisterAccessed",
    "Reporter",
    "SILENT",
    "SILENT_HOST",
    "Source",
    "StatusChanged",
    "TlpSent",
    "Topic",
]

RECORDS: Mapping[str, type[Event]] = {
    record.__name__: record
    for record in (
        BackEndMoved,
        BindMoved,
        ControlCommanded,
        DeviceReset,
        FaultInjected,
        FeaturesNegotiated,
        LinkMoved,
        MessagePassed,
        NeedsResetSet,
        NotificationsRescued,
        PacketsDropped,
        PortLost,
        QueueEnabled,
        QueueStopped,
        StatusChanged,
        ChainAbandoned,
        ChainAdded,
        ChainCompleted,
        ChainReturned,
        ChainTaken,
        ConfigAccessed,
        DmaMoved,
        FrameReceived,
        FrameSent,
        InterruptSent,
        Notified,
        RegisterAccessed,
        TlpSent,
    )
}
"""All kinds of events by the names of their records."""
