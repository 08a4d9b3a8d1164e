"""Parts of a running system come and go: each as a whole or not at all, and nothing of one that went is left."""

from __future__ import annotations

import gc
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import vnet.system.parts as parts_module
import vnet.system.tables as tables_module
from drivers.bus.vhost import VhostBus
from drivers.errors import ProbeError
from vnet.ends import DEVICE_TYPES
from vnet.ends.base import SideName
from vnet.errors import ConfigError, ControlError
from vnet.host.host import Host
from vnet.pcie.epc import EndpointController
from vnet.pcie.ntb import NtbFunction
from vnet.pcie.rc import RootComplex
from vnet.system.carriers import LinkCarrier, NtbCarrier
from vnet.system.sites import DeviceSite
from vnet.system.world import World, open_world
from vnet.testing.footprint import fds, maps
from vnet.topology import Topology, parse
from vnet.topology.samples import built_in
from vnet.topology.support import cells
from vnet.transports import TRANSPORTS

EMPTY = Topology({}, {}, {})
SIDES: tuple[SideName, ...] = ("driver", "device")


def sample(kind: str, transport: str = "pci", mode: str = "direct") -> Topology:
    exercise = DEVICE_TYPES[kind].exercise
    assert exercise is not None
    return built_in(kind, transport, exercise.keys, mode=mode)


async def act(world: World, name: str) -> None:
    exercise = DEVICE_TYPES[world.topology.devices[name].type].exercise
    assert exercise is not None
    await exercise.act(world.running(name))


async def held(world: World) -> tuple[Any, ...]:
    """Return what the system holds, when nothing moves."""
    await wait_all_tasks_blocked()
    gc.collect()
    memories = [host.memory.statistics() for host in world.hosts.values()]
    tables = (world.hosts, world.links, world.faults, world.registers, world.buses, world.ntbs, world.devices)
    return (
        trio.lowlevel.current_statistics().tasks_living,
        fds(),
        maps(),
        [(memory.buffers, memory.used) for memory in memories],
        [dict(table) for table in tables[:-1]],
        {name: device.location for name, device in world.devices.items()},
        world.topology.hosts.keys(),
        dict(world.topology.links),
        dict(world.topology.ntbs),
        dict(world.topology.devices),
        [list(host.names) for host in world.hosts.values()],
    )


PLACES = [
    (kind, transport, mode)
    for (kind, transport), cell in cells().items()
    for mode in cell.modes
    if DEVICE_TYPES[kind].exercise is not None
]


@pytest.mark.parametrize(("kind", "transport", "mode"), PLACES)
async def test_every_device_comes_and_goes_and_leaves_nothing(kind: str, transport: str, mode: str) -> None:
    parts, name = sample(kind, transport, mode), f"{kind}0"
    carriers = Topology({}, parts.links, {}, parts.ntbs)
    async with open_world(Topology(parts.hosts, {}, {}), "t") as world:
        for surprise in (False, True):
            before = await held(world)
            await world.add(carriers)
            empty = await held(world)
            await world.add(attrs.evolve(EMPTY, devices=parts.devices))
            await act(world, name)
            for side in SIDES if mode == "direct" else SIDES[:1]:
                await world.unbind(name, side)
                assert not world.devices[name].up
                await world.bind(name, side)
                await act(world, name)
            assert await world.remove(name, surprise=surprise) == (("devices", name),)
            assert await held(world) == empty
            await world.add(attrs.evolve(EMPTY, devices=parts.devices))
            await act(world, name)
            for link in parts.links:
                if link in world.links:  # it takes all that it carries with it
                    await world.remove(link, surprise=surprise)
            if not parts.links:
                await world.remove(name, surprise=surprise)
            assert await held(world) == before


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


FAILURES: list[tuple[Any, str]] = [
    (parts_module, "open_netns"),
    (parts_module, "_open_ends"),
    (parts_module, "Host"),
    (parts_module, "open_trace"),
    (parts_module, "NtbFunction"),
    (parts_module, "wait_offered"),
    (tables_module, "build_link"),
    (RootComplex, "attach"),
    (Host, "add_controller"),
    (NtbFunction, "bind"),
    (DeviceSite, "place"),
    (VhostBus, "register_device"),
    (NtbCarrier, "show"),
    (EndpointController, "start"),
]


@pytest.mark.parametrize(("owner", "step"), FAILURES, ids=[step for _, step in FAILURES])
async def test_a_step_that_fails_undoes_all_of_an_addition(
    owner: Any, step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = sample("blk", "ntb")
    traced = {name: attrs.evolve(link, trace=str(tmp_path / name)) for name, link in parts.links.items()}
    parts = attrs.evolve(parts, links=traced)
    async with open_world(sample("net", "mmio"), "t") as world:
        await world.wait_up()
        before = await held(world)
        with monkeypatch.context() as patch:
            if step == "open_netns":
                patch.setattr(Topology, "own_netns", lambda *_: ("t-none",))
            patch.setattr(owner, step, fail)
            with pytest.raises(OSError, match="no more"):
                await world.add(parts)
        assert await held(world) == before
        await world.add(parts)
        await act(world, "blk0")


def fail(*_: object, **__: object) -> Any:
    raise OSError("no more")


async def test_an_addition_that_is_cancelled_anywhere_is_undone() -> None:
    parts = sample("blk", "ntb")
    async with open_world(sample("net", "mmio"), "t") as world:
        await world.wait_up()
        before = await held(world)
        for steps in count(0, 7):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, steps, scope)
                    await world.add(parts)
                    nursery.cancel_scope.cancel()
            if not scope.cancelled_caught:
                break
            assert await held(world) == before
        assert steps > 20
        await act(world, "blk0")


async def cancel_after(steps: int, scope: trio.CancelScope) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


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


async def test_an_error_of_one_part_leaves_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sample("net")
    spec = attrs.evolve(first.devices["net0"], function=1)
    parts = attrs.evolve(first, hosts={}, devices={**first.devices, "net1": spec})
    async with open_world(Topology(first.hosts, {}, {}), "t") as world:
        before = await held(world)
        hide = LinkCarrier.hide

        async def fail_first(carrier: LinkCarrier) -> None:
            await hide(carrier)
            if carrier.number == 0:
                raise OSError("no more")

        with monkeypatch.context() as patch:
            patch.setattr(LinkCarrier, "hide", fail_first)
            await world.add(parts)
            with pytest.raises(OSError, match="no more"):
                await world.remove("pcie0")
        assert await held(world) == before
        await world.add(parts)
        await act(world, "net1")


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
