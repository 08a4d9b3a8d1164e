"""Commands that QEMU has take and return the members that QEMU's do; by default a client chooses all events."""

from __future__ import annotations

import attrs
import pytest

from vnet.qmp.events import EVENTS
from vnet.qmp.qapi import QapiRecord, member
from vnet.qmp.records import CommandInfo, EventChoice, LinkMove, Negotiation, StatusInfo, VersionInfo, VersionTriple


@pytest.mark.parametrize(
    ("record", "members"),
    [
        (Negotiation, "enable"),
        (VersionInfo, "qemu package"),
        (VersionTriple, "major minor micro"),
        (CommandInfo, "name"),
        (StatusInfo, "running status"),
        (LinkMove, "name up"),
    ],
)
def test_members_are_qemus(record: type[QapiRecord], members: str) -> None:
    assert [member(record, field.name) for field in attrs.fields(record)] == members.split()


def test_a_client_chooses_all_events_by_default() -> None:
    assert EventChoice().events == tuple(EVENTS)
