"""Changes of a running system: in which order, after which refusals, and how one that does not work ends."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivers.errors import ProbeError
from support.changes import EMPTY, SIDES, act, held, sample
from vnet.errors import ConfigError, ControlError
from vnet.system.sites import DeviceSite
from vnet.system.world import open_world
from vnet.topology import Topology, parse
from vnet.transports import TRANSPORTS


async def test_a_host_with_its_link_and_its_device_comes_at_once_and_goes_last() -> None:
    first = sample("net")
    other = parse(
        """
        [hosts.far]
        [links.pcie1]
        root = "rc"
        endpoint = "far"
        [devices.net1]
        link = "pcie1"
        driver.kind = "memory"
        device.kind = "memory"
        """,
        running=first,
    )
    async with open_world(first, "t") as world:
        await world.wait_up()
        before = await held(world)
        await world.add(other)
        await act(world, "net1")
        with pytest.raises(ControlError, match="host far: remove what uses it first: net1, pcie1"):
            await world.remove("far")
        assert await world.remove("pcie1") == (("devices", "net1"), ("links", "pcie1"))
        assert await world.remove("far") == (("hosts", "far"),)
        assert await held(world) == before
        await act(world, "net0")


async def test_a_device_that_does_not_come_up_is_undone_and_the_error_has_its_reason() -> None:
    parts = sample("net")
    async with open_world(Topology(parts.hosts, parts.links, {}), "t") as world:
        world.links["pcie0"].bring_down()
        before = await held(world)
        with pytest.raises(ProbeError, match="net0 is not up after 5 s"):
            await world.add(attrs.evolve(EMPTY, devices=parts.devices), timeout=5)
        assert await held(world) == before
        world.links["pcie0"].bring_up()
        await world.add(attrs.evolve(EMPTY, devices=parts.devices))
        await act(world, "net0")


async def test_changes_of_one_name_at_the_same_time_follow_one_another() -> None:
    parts = sample("net")
    device = attrs.evolve(EMPTY, devices=parts.devices)
    async with open_world(Topology(parts.hosts, parts.links, {}), "t") as world:
        errors: list[str] = []

        async def add() -> None:
            try:
                await world.add(device)
            except ConfigError as exc:
                errors.append(str(exc))

        async def remove() -> None:
            try:
                await world.remove("net0")
            except ControlError as exc:
                errors.append(str(exc))

        for change, why in ((add, "must be a new name: the system has it already"), (remove, "part 'net0': must be")):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(change)
            assert len(errors) == 4
            assert all(why in error for error in errors)
            errors.clear()


async def test_a_removal_while_an_addition_waits_ends_the_wait() -> None:
    parts = sample("net")
    async with open_world(Topology(parts.hosts, parts.links, {}), "t") as world:
        world.links["pcie0"].bring_down()
        before = await held(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.add, attrs.evolve(EMPTY, devices=parts.devices))
            await trio.sleep(1)
            await world.remove("net0", surprise=True)
        assert await held(world) == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[hosts.rc]", "hosts.rc: must be a new name: the system has it already"),
        ('[devices.net1]\nlink = "pcie0"', "devices.net1.function = 0: already used by net0 on the same link"),
        ('[devices.net1]\nlink = "pcie7"', "devices.net1.link = 'pcie7': must be one of pcie0"),
        ('[links.pcie1]\nroot = "rc"\nendpoint = "moon"', "links.pcie1.endpoint = 'moon': must be one of rc, ep"),
        (
            '[devices.net1]\nlink = "pcie0"\nfunction = 1\nqueue_size = 32768\nmtu = 65521',
            "hosts.rc.memory = 128: must be at least",
        ),
    ],
)
async def test_an_impossible_part_is_refused_with_its_key(text: str, why: str) -> None:
    running = sample("net")
    async with open_world(running, "t") as world:
        before = await held(world)
        with pytest.raises(ConfigError) as caught:
            await world.add(parse(text, running=world.topology))
        assert why in str(caught.value)
        assert await held(world) == before


async def test_a_system_that_ends_takes_no_changes() -> None:
    async with open_world(sample("net"), "t") as world:
        pass
    with pytest.raises(ControlError, match="t does not change while it runs"):
        await world.remove("net0")


async def test_a_stopped_controller_takes_the_functions_off_the_bus() -> None:
    async with open_world(sample("net"), "t") as world:
        await world.wait_up()
        await world.stop("pcie0")
        await wait_all_tasks_blocked()
        assert world.hosts["rc"].rc.functions == ()
        assert world.devices["net0"].virtio is None
        await world.start("pcie0")
        await world.wait_up()
        await act(world, "net0")


async def test_parts_can_be_added_before_their_controller_is_started() -> None:
    parts = sample("net")
    async with open_world(Topology(parts.hosts, {}, {}), "t") as world:
        await world.add(attrs.evolve(EMPTY, links=parts.links), present=False)
        await world.add(attrs.evolve(EMPTY, devices=parts.devices), timeout=0)
        await wait_all_tasks_blocked()
        assert not world.devices["net0"].up
        await world.start("pcie0")
        await world.wait_up()
        await act(world, "net0")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_keys_of_a_device_change_while_no_driver_uses_it(transport: str) -> None:
    async with open_world(sample("net", transport), "t") as world:
        await world.wait_up()
        with pytest.raises(ControlError, match="net0: its driver uses it; try: vnet unbind net0 driver"):
            await world.change("net0", queue_size=64)
        await world.unbind("net0", "driver")
        before = await held(world)
        with pytest.raises(ConfigError, match=r"devices\.net0\.queue_size = 63: must be a power of two"):
            await world.change("net0", queue_size=63)
        with pytest.raises(ConfigError, match=r"devices\.net0\.features_off = \['MOON'\]: unknown feature MOON"):
            await world.change("net0", features_off=("MOON",))
        assert await held(world) == before
        await world.change("net0", queue_size=64, features_off=("MRG_RXBUF",), ring="packed")
        await wait_all_tasks_blocked()
        assert list(world.devices["net0"].unbound) == ["driver"]
        await world.bind("net0", "driver")
        await act(world, "net0")
        device = world.devices["net0"]
        assert {queue.num for queue in device.device_queues[:2]} == {64}
        names = device.spec.virtio.table.describe(device.vhost.features)
        assert "RING_PACKED" in names
        assert "MRG_RXBUF" not in names


async def test_a_change_that_fails_leaves_the_device_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(sample("net"), "t") as world:
        await world.wait_up()
        for side in SIDES:
            await world.unbind("net0", side)
        before = await held(world)
        with monkeypatch.context() as patch:
            turns, place = iter([fail]), DeviceSite.place

            def fail_once(site: DeviceSite) -> Any:
                return next(turns, place)(site)

            patch.setattr(DeviceSite, "place", fail_once)
            with pytest.raises(OSError, match="no more"):
                await world.change("net0", queue_size=64)
        assert await held(world) == before
        assert list(world.devices["net0"].unbound) == ["driver", "device"]
        for side in SIDES:
            await world.bind("net0", side)
        await act(world, "net0")


def fail(*_: object, **__: object) -> Any:
    raise OSError("no more")
