"""The records of a snapshot cross a socket as JSON and come back as they were."""

from __future__ import annotations

import json

import pytest
from trio.testing import wait_all_tasks_blocked

from vnet.system.snapshot import take_snapshot, take_status
from vnet.system.world import World, open_world
from vnet.topology.samples import built_in
from vnet.views.ends import OtherEndView
from vnet.views.parse import from_plain
from vnet.views.plain import to_plain
from vnet.views.system import StatusView, SystemView

PORTS = 'driver = { kind = "memory" }\ndevice = { kind = "memory" }'

TYPES = {
    "net": ("port", "port"),
    "blk": ("disk", "store"),
    "scsi": ("initiator", "targets"),
    "rpmsg": ("rpmsg", "rpmsg"),
}


def received(world: World) -> SystemView:
    """The snapshot, as a client has it."""
    plain = to_plain(take_snapshot(world))
    system = from_plain(SystemView, json.loads(json.dumps(plain)))
    assert to_plain(system) == plain
    return system


@pytest.mark.every_transport
@pytest.mark.parametrize("kind", ["net", "blk", "scsi", "rpmsg"])
async def test_every_type_of_device_comes_back_as_it_was(kind: str, transport: str) -> None:
    async with open_world(built_in(kind, transport, PORTS if kind == "net" else "")) as world:
        received(world)
        await world.wait_up()
        [device] = received(world).devices.values()
        assert device.up
        assert (device.driver.port.type, device.device.port.type) == TYPES[kind]
        assert not isinstance(device.driver.port, OtherEndView)
        assert not isinstance(device.device.port, OtherEndView)


async def test_the_status_has_names_and_what_is_up() -> None:
    async with open_world(built_in("net", "pci", PORTS)) as world:
        await world.wait_up()
        world.links["pcie0"].bring_down()
        await wait_all_tasks_blocked()
        plain = to_plain(take_status(world))
        why = "down: the device can't be reached"
        verdict = {"rule": "down", "queue": "", "text": why, "look": "vnet show net0"}
        parts = {"hosts": ["rc", "ep"], "links": {"pcie0": False}, "devices": {"net0": False}}
        assert plain == {**parts, "ntbs": [], "luns": [], "verdicts": {"net0": verdict}}
        assert from_plain(StatusView, plain) == take_status(world)
