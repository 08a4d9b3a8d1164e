"""Commands that change a running system: their arguments, their refusals, and the events that follow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from support.commands import command
from vnet.qmp.codec import QmpError
from vnet.qmp.event_queue import EventQueue
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse
from vnet.topology.reader import from_tables

CHANGES = ("VNET_PART_ADDED", "VNET_PART_REMOVED", "DEVICE_DELETED")
MEMORY = {"driver": {"kind": "memory"}, "device": {"kind": "memory"}}
CARD = {
    "hosts": {"card": {}},
    "links": {"pcie1": {"root": "rc", "endpoint": "card"}},
    "devices": {"net1": {"link": "pcie1", **MEMORY}},
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(parse(DEFAULT.replace('"tun"', '"memory"')), "t-changes") as world:
        await world.wait_up()
        yield world


async def events(queue: EventQueue) -> list[tuple[str, str]]:
    """Return the names of the events and of their parts."""
    await wait_all_tasks_blocked()
    return [(each["event"], each["data"].get("device") or each["data"]["name"]) for each in queue.take()]


async def test_a_topology_is_added_and_removed_and_each_part_is_an_event(world: World) -> None:
    queue = EventQueue(world.events)
    queue.choose(CHANGES)
    added = await command(world, "topology-add", topology=CARD)
    assert [(step["action"], step["kind"], step["name"]) for step in added] == [
        ("add", "host", "card"),
        ("add", "link", "pcie1"),
        ("add", "device", "net1"),
    ]
    assert world.devices["net1"].up
    removed = await command(world, "topology-remove", name="pcie1")
    assert [(step["kind"], step["name"]) for step in removed] == [("device", "net1"), ("link", "pcie1")]
    assert await events(queue) == [
        ("VNET_PART_ADDED", "card"),
        ("VNET_PART_ADDED", "pcie1"),
        ("VNET_PART_ADDED", "net1"),
        ("VNET_PART_REMOVED", "net1"),
        ("DEVICE_DELETED", "net1"),
        ("VNET_PART_REMOVED", "pcie1"),
    ]
    queue.close()


async def test_a_device_is_added_and_deleted_by_qemus_commands(world: World) -> None:
    queue = EventQueue(world.events)
    queue.choose(["DEVICE_DELETED"])
    keys: dict[str, Any] = {"driver": "net", "id": "net1", "bus": "pcie0", "function": 1, "queue_size": 64}
    dotted: dict[str, Any] = {"device.kind": "memory"}
    await command(world, "device_add", **keys, **dotted, properties={"driver.kind": "memory"})
    assert world.devices["net1"].up
    assert world.topology.devices["net1"].queue_size == 64
    await command(world, "device_del", id="net1")
    assert "net1" not in world.devices
    [deleted] = queue.take()
    assert deleted["data"] == {"device": "net1", "path": "/machine/peripheral/net1"}
    queue.close()
    with pytest.raises(QmpError, match="Device 'net1' not found") as caught:
        await command(world, "device_del", id="net1")
    assert caught.value.kind == "DeviceNotFound"


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("device_add", {"driver": "moon", "id": "m"}, "devices.m.type = 'moon': must be one of"),
        ("device_add", {"driver": "net", "id": "net0", "bus": "pcie0"}, "devices.net0: must be a new name"),
        ("device_add", {"driver": "net", "id": "n", "moon": 1}, "devices.n.moon = 1: unknown key"),
        ("device_add", {"driver": "net", "id": "n", "link.x": 1, "link": 2}, "Parameter 'link.x'|devices.n.link"),
        ("device_add", {"driver": "net", "id": "n", "mtu": 1, "mtu.x": 1}, "Parameter 'mtu.x': mtu must be a table"),
        ("topology-add", {"topology": {"moons": {}}, "file": "f"}, "f: moons = {}: unknown key"),
        ("topology-add", {"topology": {"hosts": 1}, "file": "f"}, "f: hosts = 1: must be a table"),
        ("topology-add", {"topology": []}, "Parameter 'topology': must be a table"),
        ("topology-remove", {"name": "moon"}, "part 'moon': must be one of net0, pcie0, rc, ep"),
        ("topology-remove", {"name": "ep"}, "host ep: remove what uses it first: net0, pcie0"),
        ("topology-apply", {"topology": {"hosts": {"rc": {"memory": 0}}}}, "hosts.rc.memory = 0: must be"),
        ("device-bind", {"name": "moon", "side": "driver"}, "device 'moon': must be one of net0"),
        ("device-unbind", {"name": "net0", "side": "left"}, "Parameter 'side': must be one of driver, device"),
        ("controller-stop", {"name": "moon"}, "link 'moon': must be one of pcie0"),
    ],
)
async def test_an_impossible_change_is_refused_and_changes_nothing(
    world: World, name: str, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(QmpError, match=why):
        await command(world, name, **arguments)
    assert [*world.hosts, *world.links, *world.devices] == ["rc", "ep", "pcie0", "net0"]
    assert world.devices["net0"].up


async def test_a_preview_of_an_application_changes_nothing(world: World) -> None:
    wanted: dict[str, Any] = {"hosts": {"rc": {}}, "devices": {}}
    steps = await command(world, "topology-apply", topology=wanted, preview=True)
    assert [(step["action"], step["name"]) for step in steps] == [
        ("remove", "net0"),
        ("remove", "pcie0"),
        ("remove", "ep"),
    ]
    assert world.devices["net0"].up
    assert await command(world, "topology-apply", topology=wanted) == steps
    assert (list(world.hosts), list(world.links), list(world.devices)) == (["rc"], [], [])


async def test_drivers_and_controllers_are_moved_by_commands(world: World) -> None:
    for side in ("driver", "device"):
        await command(world, "device-unbind", name="net0", side=side)
        assert f"the {side} is unbound by hand" in world.devices["net0"].trouble()
        await command(world, "device-bind", name="net0", side=side)
        assert world.devices["net0"].up
    await command(world, "controller-stop", name="pcie0")
    assert not world.links["pcie0"].up
    await command(world, "controller-start", name="pcie0")
    await world.wait_up()


async def test_many_problems_are_one_error_with_their_number(world: World) -> None:
    devices = {f"n{number}": {"link": "moon"} for number in range(15)}
    with pytest.raises(QmpError, match=r"devices\.n5\.link = 'moon'.*; \d+ more problems"):
        await command(world, "topology-add", topology={"devices": devices})


def test_a_part_of_a_topology_may_refer_to_parts_that_run() -> None:
    running = parse(DEFAULT)
    assert from_tables(CARD, "card", running).links["pcie1"].root == "rc"


async def test_a_key_of_a_device_without_a_driver_is_set_like_a_setting(world: World) -> None:
    await command(world, "device-unbind", name="net0", side="driver")
    for value, why in (("x", "must be a whole number"), ("63", "must be a power of two")):
        with pytest.raises(QmpError, match=why):
            await command(world, "device-set", name="net0", setting="queue_size", value=value)
    for setting, value in (("queue_size", "64"), ("features_off", "MRG_RXBUF,MTU")):
        await command(world, "device-set", name="net0", setting=setting, value=value)
    spec = world.topology.devices["net0"]
    assert (spec.queue_size, spec.features_off) == (64, ("MRG_RXBUF", "MTU"))
    await command(world, "device-bind", name="net0", side="driver")
    assert world.devices["net0"].up
