"""Commands that change a system take QEMU's arguments where QEMU has the command, and the words of a plan."""

from __future__ import annotations

import attrs
import pytest

from vnet.qmp.change_records import (
    ChangeStep,
    DeviceAddition,
    DeviceDeletion,
    PartChoice,
    WantedTopology,
)
from vnet.qmp.qapi import QapiRecord, member, to_wire
from vnet.topology.plan import Step


@pytest.mark.parametrize(("record", "members"), [(DeviceAddition, "driver id bus"), (DeviceDeletion, "id")])
def test_members_that_qemu_has_are_named_as_there(record: type[QapiRecord], members: str) -> None:
    assert [member(record, field.name) for field in attrs.fields(record)][: len(members.split())] == members.split()


def test_a_device_is_added_by_two_arguments() -> None:
    assert to_wire(DeviceAddition("net", "net1")) == {"driver": "net", "id": "net1", "properties": {}}


def test_a_step_on_the_wire_is_one_of_a_plan() -> None:
    step = Step("remove", "lun", "scsi0:0:1", "changed: size")
    assert to_wire(ChangeStep(**attrs.asdict(step))) == attrs.asdict(step)


def test_changes_happen_and_drivers_are_unbound_first_unless_one_asks_for_less() -> None:
    assert not WantedTopology({}).preview
    assert not PartChoice("net0").surprise
