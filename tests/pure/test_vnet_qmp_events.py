"""The table of events: each can be made of its record, and describes itself."""

from __future__ import annotations

import attrs
import pytest

from drivers.contracts.events import DeviceReset, LinkMoved, PacketsDropped, QueueStopped, Source
from vnet.qmp.events import BY_RECORD, EVENTS, LOST, PLACE, SHUTDOWN, event_data
from vnet.qmp.qapi import to_wire

NET0 = Source("rc", "net0", "driver", "transmitq1", link="pcie0")


@pytest.mark.parametrize("name", sorted(EVENTS.keys() - {LOST, SHUTDOWN}))
def test_every_member_is_a_field_of_the_record_or_a_name_of_its_place(name: str) -> None:
    kind = EVENTS[name]
    assert kind.record is not None
    known = PLACE | {field.name for field in attrs.fields(kind.record)} | {"path"}
    assert {field.name for field in attrs.fields(kind.data)} <= known
    assert name in BY_RECORD[kind.record]


def test_names_are_qemus_way() -> None:
    assert all(name in (SHUTDOWN, "DEVICE_DELETED") or name.startswith("VNET_") for name in EVENTS)


def test_data_have_the_place_and_leave_out_what_is_empty() -> None:
    drop = PacketsDropped(1.0, NET0, "port", "oversized", 3)
    assert to_wire(event_data(EVENTS["VNET_PACKETS_DROPPED"], drop)) == {
        "device": "net0",
        "host": "rc",
        "side": "driver",
        "queue": "transmitq1",
        "place": "port",
        "cause": "oversized",
        "count": 3,
    }
    reset = DeviceReset(1.0, Source("ep", "net0", "device"))
    assert to_wire(event_data(EVENTS["VNET_DEVICE_RESET"], reset)) == {
        "device": "net0",
        "host": "ep",
        "side": "device",
        "repeats": 0,
    }


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (LinkMoved(1.0, Source(link="pcie0"), True, 2), "VNET_LINK_UP"),
        (LinkMoved(1.0, Source(link="pcie0"), False, 1), "VNET_LINK_DOWN"),
        (QueueStopped(1.0, NET0), "VNET_QUEUE_STOPPED"),
        (QueueStopped(1.0, NET0, "bad index", "2.7.5"), "VNET_QUEUE_BROKEN"),
    ],
)
def test_one_record_is_one_of_two_events(event: LinkMoved | QueueStopped, name: str) -> None:
    assert [name for name, kind in BY_RECORD[type(event)].items() if kind.when(event)] == [name]
