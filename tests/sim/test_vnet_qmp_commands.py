"""Each command checks its arguments, does what its name says, and returns what its type says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.commands import command
from vnet.qmp.codec import QmpError
from vnet.qmp.commands import COMMANDS
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse
from vnet.version import __version__


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(parse(DEFAULT.replace('"tun"', '"memory"')), "t-commands") as world:
        await world.wait_up()
        yield world


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "Parameter 'name': must be given"),
        ({"name": "pcie0"}, "Parameter 'up': must be given"),
        ({"name": "pcie0", "up": 1}, "Parameter 'up': must be true or false"),
        ({"name": None, "up": True}, "Parameter 'name': must not be null"),
        ({"name": 1, "up": True}, "Parameter 'name': must be text in quotes"),
        ({"name": "pcie0", "up": True, "frob": 1}, "Parameter 'frob': unknown key; known are name, up"),
        ({"nam": "pcie0", "up": True}, "Parameter 'nam': unknown key; did you mean name? known are name, up"),
    ],
)
async def test_an_argument_that_does_not_fit_is_named(world: World, arguments: dict[str, object], why: str) -> None:
    with pytest.raises(QmpError) as caught:
        await command(world, "set_link", **arguments)
    assert (caught.value.desc, caught.value.kind) == (why, "GenericError")


async def test_every_command_without_arguments_takes_none(world: World) -> None:
    for name, one in COMMANDS.items():
        if one.arguments.__name__ == "Empty":
            with pytest.raises(QmpError, match="Parameter 'x': unknown key"):
                await command(world, name, x=1)


async def test_the_version_is_that_of_the_program(world: World) -> None:
    actual = await command(world, "query-version")
    assert list(actual["qemu"]) == ["major", "minor", "micro"]
    assert ".".join(str(number) for number in actual["qemu"].values()) == __version__
    assert actual["package"] == f"vnet {__version__}"


async def test_the_status_is_qemus_and_ours_has_the_parts(world: World) -> None:
    assert await command(world, "query-status") == {"running": True, "status": "running"}
    parts = {"hosts": ["rc", "ep"], "links": {"pcie0": True}, "devices": {"net0": True}, "ntbs": [], "luns": []}
    assert await command(world, "query-vnet-status") == {**parts, "verdicts": {}}


async def test_no_capability_can_be_enabled(world: World) -> None:
    assert await command(world, "qmp_capabilities", enable=[]) == {}
    with pytest.raises(QmpError, match="Parameter 'enable': capability 'oob': there is none"):
        await command(world, "qmp_capabilities", enable=["oob"])


async def test_a_link_is_taken_down_and_up_by_name(world: World) -> None:
    for up in (False, False, True):
        assert await command(world, "set_link", name="pcie0", up=up) == {}
        assert world.links["pcie0"].up is up
    with pytest.raises(QmpError, match=r"^link 'x': must be one of pcie0$") as caught:
        await command(world, "set_link", name="x", up=True)
    assert caught.value.kind == "DeviceNotFound"
    await world.wait_up()
    assert world.links["pcie0"].epoch == 2


async def test_a_device_is_reset_from_its_drivers_side_and_comes_up_again(world: World) -> None:
    device = world.devices["net0"]
    before = device.vhost.resets
    assert await command(world, "device-reset", name="net0") == {}
    with pytest.raises(QmpError, match=r"^device 'x': must be one of net0$") as caught:
        await command(world, "device-reset", name="x")
    assert caught.value.kind == "DeviceNotFound"
    await world.wait_up()
    assert device.vhost.resets > before
    world.memory_port("net0", "driver").inject(bytes(60))
    assert (await world.memory_port("net0", "device").receive())[1] == bytes(60)
