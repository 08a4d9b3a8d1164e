"""LUNs of a running SCSI host come and go: its initiator is informed, other LUNs and the device run on."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivers.devices.scsi import Asc, EventType, Initiator, Lun, ResetReason, Response, ScsiError, ScsiEvent, SenseKey
from drivers.devices.scsi import cdb as commands
from support.commands import command
from support.rigs.scsi_tasks import sense
from vnet.ends.scsi import LunSpec
from vnet.errors import ConfigError, ControlError
from vnet.qmp.codec import QmpError
from vnet.qmp.event_queue import EventQueue
from vnet.system.snapshot import take_status
from vnet.system.world import World, open_world
from vnet.testing.blk import StubbornStore
from vnet.testing.checks import bounded, until
from vnet.testing.footprint import fds
from vnet.testing.scsi import ScsiOptions
from vnet.topology import Topology
from vnet.topology.samples import built_in
from vnet.topology.support import cells

FIRST, NEW = Lun(0, 0), Lun(0, 1)
NAME = "scsi0:0:1"
MEMORY = LunSpec(size=1, lun=1)


def on_file(path: Path, **keys: Any) -> LunSpec:
    return LunSpec(store="file", path=str(path), lun=1, **{"size": 1, **keys})


def initiator(world: World) -> Initiator:
    requests = world.devices["scsi0"].driver_end.requests
    assert isinstance(requests, Initiator)
    return requests


def with_luns(topology: Topology, *luns: LunSpec) -> Topology:
    """Return a topology with these LUNs besides the first one."""
    scsi = topology.devices["scsi0"]
    units = [next(iter(scsi.units.values())), *luns]
    return attrs.evolve(topology, devices={**topology.devices, "scsi0": scsi.with_units(units)})


def luns(world: World) -> list[str]:
    """Return the LUNs in the list of parts, which are those of the topology and of the device."""
    running, end = world.topology.devices["scsi0"], world.devices["scsi0"].device_end
    assert list(map(str, end.settings.domain.units)) == sorted(running.units)  # type: ignore[attr-defined]
    return list(take_status(world).luns)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(ScsiOptions().topology(), "t-units") as world:
        await world.wait_up()
        await initiator(world).execute(commands.unit_ready(), attention=True)
        yield world


async def check_io(world: World, lun: Lun) -> None:
    data = bytes([lun.lun + 1]) * 512
    assert (await initiator(world).execute(commands.write(3, 1), lun=lun, data_out=data)).good
    assert (await initiator(world).execute(commands.read(3, 1), lun=lun, data_in=512)).data == data


@pytest.mark.parametrize("transport", sorted({transport for kind, transport in cells() if kind == "scsi"}))
async def test_a_lun_comes_and_goes_while_the_device_runs(transport: str) -> None:
    luns_key = 'device = { luns = [{ store = "memory", size = 1 }] }'
    async with open_world(built_in("scsi", transport, luns_key), "t-units") as world:
        await world.wait_up()
        device = world.devices["scsi0"]
        with initiator(world).events() as events:
            assert await world.add_unit("scsi0", MEMORY) == NAME
            with bounded():
                assert await events.receive() == ScsiEvent(EventType.TRANSPORT_RESET, NEW, ResetReason.RESCAN)
            changed = await initiator(world).execute(commands.unit_ready())
            assert sense(changed) == (SenseKey.UNIT_ATTENTION, Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
            assert await initiator(world).scan() == [FIRST, NEW]
            await check_io(world, NEW)
            assert luns(world) == ["scsi0:0:0", NAME]
            assert await world.remove(NAME) == (("luns", NAME),)
            with bounded():
                assert await events.receive() == ScsiEvent(EventType.TRANSPORT_RESET, NEW, ResetReason.REMOVED)
        assert await initiator(world).scan() == [FIRST]
        gone = await initiator(world).execute(commands.unit_ready(), lun=NEW)
        assert sense(gone) == (SenseKey.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)
        await initiator(world).execute(commands.unit_ready())  # reports the change
        await check_io(world, FIRST)
        assert luns(world) == ["scsi0:0:0"]
        assert world.devices["scsi0"] is device
        assert device.up


async def test_a_hundred_luns_on_files_leave_nothing(world: World, tmp_path: Path) -> None:
    async def held() -> tuple[int, dict[str, int] | object]:
        await wait_all_tasks_blocked()
        gc.collect()
        return trio.lowlevel.current_statistics().tasks_living, fds()

    before = await held()
    for _ in range(100):
        await world.add_unit("scsi0", on_file(tmp_path / "unit.img"))
        await world.remove(NAME, surprise=True)
    assert await held() == before


async def hold_up(world: World, nursery: trio.Nursery) -> tuple[StubbornStore, list[object]]:
    """Start a read that the store of the first LUN holds up. Returns the store, and how the read ends."""
    store = world.devices["scsi0"].device_end.settings.domain.units[FIRST].store  # type: ignore[attr-defined]
    assert isinstance(store, StubbornStore)
    await initiator(world).execute(commands.unit_ready())  # reports a change
    store.at_once, store.gate = False, trio.Event()
    ended: list[object] = []

    async def read() -> None:
        try:
            ended.append((await initiator(world).execute(commands.read(0, 1), data_in=512)).good)
        except ScsiError as exc:
            ended.append(exc.response)

    nursery.start_soon(read)
    await until(lambda: store.inside == 1)
    return store, ended


@pytest.mark.parametrize(("surprise", "end"), [(False, True), (True, Response.FAILURE)])
async def test_commands_under_way_are_finished_or_fail(world: World, surprise: bool, end: object) -> None:
    await world.add_unit("scsi0", MEMORY)
    async with trio.open_nursery() as nursery:
        store, ended = await hold_up(world, nursery)

        async def remove() -> None:
            await world.remove("scsi0:0:0", surprise=surprise)

        nursery.start_soon(remove)
        await wait_all_tasks_blocked()
        assert store.gate is not None
        store.gate.set()
    assert ended == [end]
    assert luns(world) == [NAME]
    await initiator(world).execute(commands.unit_ready(), lun=NEW, attention=True)
    await initiator(world).execute(commands.unit_ready(), lun=NEW)  # reports the change
    await check_io(world, NEW)


async def test_a_lun_with_a_command_that_does_not_end_stays(world: World) -> None:
    async with trio.open_nursery() as nursery:
        store, ended = await hold_up(world, nursery)
        with pytest.raises(ControlError, match=r"scsi0: requests are still under way after 5 s; try --surprise"):
            await world.remove("scsi0:0:0")
        assert luns(world) == ["scsi0:0:0"]
        assert store.gate is not None
        store.gate.set()
    assert ended == [True]
    await check_io(world, FIRST)


async def test_apply_changes_luns_in_place(world: World, tmp_path: Path) -> None:
    first = attrs.evolve(world.topology, devices=dict(world.topology.devices))
    path, device = tmp_path / "unit.img", world.devices["scsi0"]
    changed = [f"{action} lun {NAME} (changed: read_only)" for action in ("remove", "add")]
    for wanted, steps in (
        (with_luns(first, on_file(path)), [f"add lun {NAME}"]),
        (with_luns(first, on_file(path, read_only=True)), changed),
        (with_luns(first, on_file(path), LunSpec(size=1, target=7)), [*changed, "add lun scsi0:7:0"]),
        (first, [f"remove lun {NAME}", "remove lun scsi0:7:0"]),
        (first, []),
    ):
        planned = await world.apply(wanted, dry_run=True)
        assert list(map(str, planned)) == steps
        assert await world.apply(wanted) == planned
        assert luns(world) == [f"scsi0:{unit}" for unit in wanted.devices["scsi0"].units]
        assert world.devices["scsi0"] is device
        assert device.up


async def test_a_failed_change_is_undone(world: World, tmp_path: Path) -> None:
    first = attrs.evolve(world.topology, devices=dict(world.topology.devices))
    before = with_luns(first, on_file(tmp_path / "unit.img"))
    await world.apply(before)
    absent = LunSpec(store="file", path=str(tmp_path / "absent"), target=7)
    with pytest.raises(ConfigError, match=r"devices.scsi0.device.luns\[1\].path = .*No such file"):
        await world.apply(with_luns(first, absent))
    assert luns(world) == ["scsi0:0:0", NAME]
    with pytest.raises(ConfigError, match=r"devices.scsi0.device.luns\[2\].path = .*No such file"):
        await world.add_unit("scsi0", absent)
    assert await world.apply(before) == ()
    await initiator(world).scan()
    await check_io(world, NEW)


async def test_a_device_that_also_differs_otherwise_is_made_again(world: World) -> None:
    more = with_luns(attrs.evolve(world.topology, devices=dict(world.topology.devices)), MEMORY)
    scsi = attrs.evolve(more.devices["scsi0"], queue_size=128)
    steps = await world.apply(attrs.evolve(more, devices={"scsi0": scsi}), dry_run=True)
    assert [f"{step.action} {step.kind}" for step in steps] == ["remove device", "add device"]


async def test_commands_and_events(world: World) -> None:
    queue = EventQueue(world.events)
    queue.choose(("VNET_PART_ADDED", "VNET_PART_REMOVED", "DEVICE_DELETED"))
    [added] = await command(world, "lun-add", name="scsi0", lun={"lun": 1, "store": "memory", "size": 1})
    [removed] = await command(world, "topology-remove", name=NAME)
    assert [(step["action"], step["kind"], step["name"]) for step in (added, removed)] == [
        ("add", "lun", NAME),
        ("remove", "lun", NAME),
    ]
    await wait_all_tasks_blocked()
    assert [(each["event"], each["data"]["name"]) for each in queue.take()] == [
        ("VNET_PART_ADDED", NAME),
        ("VNET_PART_REMOVED", NAME),
    ]
    queue.close()


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("lun-add", {"name": "net0", "lun": {}}, "net0: must be a SCSI host, such as scsi0"),
        ("lun-add", {"name": "scsi0", "lun": {"lun": 0, "size": 1}}, "already used by another unit of target 0"),
        ("lun-add", {"name": "scsi0", "lun": {"lun": 1}}, r"luns\[1\].size: must be given for a memory store"),
        ("lun-add", {"name": "scsi0", "lun": {"lun": "x"}}, r"luns\[1\].lun = 'x': must be"),
        ("lun-add", {"name": "scsi0", "lun": {"color": 1}}, r"luns\[1\].color"),
        ("topology-remove", {"name": NAME}, "LUN of scsi0 '0:1': must be one of 0:0"),
        ("topology-remove", {"name": "net0:0:1"}, "device 'net0': must be one of scsi0"),
        ("topology-remove", {"name": "scsi0:"}, "LUN of scsi0 '': must be one of 0:0"),
    ],
)
async def test_refusals(world: World, name: str, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(QmpError, match=why):
        await command(world, name, **arguments)
    assert luns(world) == ["scsi0:0:0"]
    await check_io(world, FIRST)
