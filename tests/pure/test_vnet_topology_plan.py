"""Plans of changes: the fewest steps from one topology to another."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from support.changes import RUNNING
from vnet.topology import Topology, parse
from vnet.topology.plan import plan_changes, with_carried


@pytest.mark.parametrize(
    ("table", "name", "changes", "steps"),
    [
        ("devices", "net0", {"queue_size": 64}, ["remove device net0 (changed: queue_size)", "add device net0"]),
        (
            "links",
            "a",
            {"lanes": 4},
            [
                "remove device net1 (on ntb ntb0)",
                "remove ntb ntb0 (on link a)",
                "remove link a (changed: lanes)",
                "add link a",
                "add ntb ntb0",
                "add device net1",
            ],
        ),
        (
            "hosts",
            "ep",
            {"memory": 200},
            [
                "remove device net0 (on link pcie0)",
                "remove device net1 (on ntb ntb0)",
                "remove ntb ntb0 (on link a)",
                "remove link pcie0 (on host ep)",
                "remove link a (on host ep)",
                "remove host ep (changed: memory)",
                "add host ep",
                "add link pcie0",
                "add link a",
                "add ntb ntb0",
                "add device net0",
                "add device net1",
            ],
        ),
    ],
)
def test_a_part_that_differs_goes_with_all_that_is_on_it(
    table: str, name: str, changes: dict[str, Any], steps: list[str]
) -> None:
    records = dict(getattr(RUNNING, table))
    records[name] = attrs.evolve(records[name], **changes)
    changed: dict[str, Any] = {table: records}
    planned = plan_changes(RUNNING, attrs.evolve(RUNNING, **changed)).steps
    assert [str(step if step.action == "remove" else attrs.evolve(step, why="")) for step in planned] == steps


DISK = """
    [hosts.rc]
    [hosts.ep]
    [links.pcie0]
    root = "rc"
    endpoint = "ep"
    [devices.scsi0]
    type = "scsi"
    link = "pcie0"
    {key}
    device = {{ luns = [{units}] }}
"""


def disk(*units: str, key: str = "") -> Topology:
    return parse(DISK.format(units=", ".join(f"{{ {unit} }}" for unit in units), key=key))


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [
        (["size = 1", "lun = 1, size = 1"], []),
        (["size = 1"], ["remove lun scsi0:0:1"]),
        (
            ["size = 1", "lun = 1, size = 2", "target = 3, size = 1"],
            ["remove lun scsi0:0:1 (changed: size)", "add lun scsi0:0:1 (changed: size)", "add lun scsi0:3:0"],
        ),
    ],
)
def test_units_of_a_device_change_without_the_device(wanted: list[str], steps: list[str]) -> None:
    plan = plan_changes(disk("size = 1", "lun = 1, size = 1"), disk(*wanted))
    assert [str(step) for step in plan.steps] == steps
    assert list(plan.units) == (["scsi0"] if steps else [])
    assert not plan.removed.devices
    assert not plan.added.devices


def test_units_change_with_their_device_if_more_of_it_differs() -> None:
    plan = plan_changes(disk("size = 1"), disk("size = 2", key="queue_size = 64"))
    assert [(step.action, step.name) for step in plan.steps] == [("remove", "scsi0"), ("add", "scsi0")]
    assert not plan.units


@pytest.mark.parametrize(
    ("table", "name", "carried"),
    [
        ("devices", "net0", ["net0"]),
        ("links", "a", ["a", "ntb0", "net1"]),
        ("links", "pcie0", ["pcie0", "net0"]),
        ("hosts", "soc", ["soc", "a", "b", "ntb0", "net1"]),
    ],
)
def test_a_part_comes_with_all_that_is_on_it(table: str, name: str, carried: list[str]) -> None:
    part: dict[str, Any] = {table: {name: getattr(RUNNING, table)[name]}}
    parts = with_carried(RUNNING, attrs.evolve(Topology({}, {}, {}), **part))
    assert [*parts.hosts, *parts.links, *parts.ntbs, *parts.devices] == carried
