"""The schema is complete, in QEMU's form, and true of what the commands return."""

from __future__ import annotations

import json
from typing import Any, Literal

import attrs
import pytest

from support.commands import command
from support.qapi import by_name, misfits, shape
from vnet.qmp.commands import COMMANDS
from vnet.qmp.event_queue import EventQueue
from vnet.qmp.events import EVENTS
from vnet.qmp.qapi import QapiRecord, to_wire
from vnet.qmp.schema import make_schema
from vnet.qmp.virtio import PATH
from vnet.system.snapshot import queue_sides
from vnet.system.world import World, open_world
from vnet.topology.samples import built_in
from vnet.views.plain import INLINE

KEYS = {"net": 'driver = { kind = "memory" }\ndevice = { kind = "memory" }'}


@attrs.frozen
class Inner:
    some_name: int


@attrs.frozen
class View:
    maybe: int | None
    inner: Inner = attrs.field(metadata=INLINE)


@attrs.frozen
class Arguments(QapiRecord):
    some_name: Literal["a", "b"]
    maybe_not: float | None = None
    views: tuple[View, ...] = ()


def test_members_have_the_names_and_the_types_of_the_fields() -> None:
    schema = by_name(to_wire(make_schema({"x-do": (Arguments, tuple[Arguments, ...])}, {"DONE": View})))
    command, event = schema["x-do"], schema["DONE"]
    assert (command["meta-type"], command["features"], event["meta-type"]) == ("command", ["unstable"], "event")
    assert schema[command["arg-type"]]["members"] == [
        {"name": "some-name", "type": "a|b"},
        {"name": "maybe-not", "type": "number", "default": None},
        {"name": "views", "type": "[View]", "default": None},
    ]
    assert shape(schema, event["arg-type"])["members"] == {"maybe": {"any of": ["int", "null"]}, "some_name": "int"}
    assert shape(schema, command["ret-type"]) == [shape(schema, command["arg-type"])]


async def test_every_command_and_event_is_in_it_and_every_type_is_described() -> None:
    async with open_world(built_in("blk"), "t") as world:
        schema = by_name(await command(world, "query-qmp-schema"))
    assert {name for name, entry in schema.items() if entry["meta-type"] == "command"} == set(COMMANDS)
    assert {name for name, entry in schema.items() if entry["meta-type"] == "event"} == set(EVENTS)
    for entry in schema.values():
        for key in ("arg-type", "ret-type", "element-type"):
            assert entry.get(key, "int") in schema
        if entry["meta-type"] in ("object", "alternate"):
            assert all(part["type"] in schema for part in entry["members"])


@pytest.mark.parametrize("kind", ["net", "blk", "scsi", "rpmsg"])
@pytest.mark.parametrize("transport", ["pci", "ntb"])
async def test_results_are_what_the_schema_says(kind: str, transport: str) -> None:
    async with open_world(built_in(kind, transport, KEYS.get(kind, ""))) as world:
        await world.wait_up()
        schema = by_name(await command(world, "query-qmp-schema"))
        events = EventQueue(world.events)
        events.choose(EVENTS)
        async for name, arguments in calls(world):
            entry = schema[name]
            assert not list(misfits(schema, entry["arg-type"], arguments))
            result = await command(world, name, **arguments)
            assert not list(misfits(schema, entry["ret-type"], result))
        await world.wait_up()
        messages = json.loads(json.dumps(events.take()))
        events.close()
    assert {"VNET_LINK_DOWN", "VNET_DEVICE_RESET", "VNET_QUEUE_ENABLED"} <= {event["event"] for event in messages}
    for event in messages:
        assert not list(misfits(schema, schema[event["event"]]["arg-type"], event["data"], event["event"]))


async def calls(world: World) -> Any:
    """A call of each command, of those with a device or a queue for each that there is."""
    for name, device in world.devices.items():
        yield "query-vnet-status", {}
        yield "x-query-virtio-status", {"path": PATH.format(name)}
        for index, queue in enumerate(queue_sides(device)):
            at = {"path": PATH.format(name), "queue": index}
            yield "query-ring", {"name": name, "queue": queue}
            yield "x-query-virtio-queue-status", at
            yield "x-query-virtio-vhost-queue-status", at
            assert device.virtio is not None
            if device.virtio.queues[index].ring.view().chains:
                yield "x-query-virtio-queue-element", at
    for name in ("query-qmp-schema", "query-version", "query-commands", "query-status", "query-vnet", "x-query-virtio"):
        yield name, {}
    yield "query-config-space", {}
    for link in world.links:
        yield "set_link", {"name": link, "up": False}
        yield "set_link", {"name": link, "up": True}
    await world.wait_up()
    for name in world.devices:
        yield "device-reset", {"name": name}
        for move in ("device-unbind", "device-bind"):
            yield move, {"name": name, "side": "driver"}
    yield "topology-apply", {"topology": {"hosts": {"alone": {}}, "devices": {}}, "preview": True}
    box = {"transport": "mmio", "host": "alone", "driver": {"kind": "memory"}, "device": {"kind": "memory"}}
    yield "topology-add", {"topology": {"hosts": {"alone": {}}, "devices": {"added": box}}}
    yield "topology-remove", {"name": "added"}
    more = {"transport": "mmio", "driver.kind": "memory", "device.kind": "memory"}
    yield "device_add", {"driver": "net", "id": "added", "bus": "alone", "properties": more}
    yield "device_del", {"id": "added"}
