"""A running system becomes what a topology says, by the fewest steps, and what stays runs on."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from support.changes import RUNNING
from support.topologies import moved_to
from vnet.errors import ConfigError
from vnet.system.world import World, open_world
from vnet.topology import Topology, parse
from vnet.topology.reader import from_tables

BYSTANDER = """
[hosts.other]
memory = 64
[devices.stays]
transport = "mmio"
host = "other"
driver.kind = "memory"
device.kind = "memory"
"""

EXAMPLES = sorted((Path(__file__).parents[2] / "examples/topologies").glob("*.toml"))
OF_OTHERS = ("vhost_user_blk",)
"""Examples whose device is in another process."""


def bystanders(world: World) -> tuple[int, int]:
    """Return the resets of the device that stays, and the frames that it has carried."""
    device = world.devices["stays"]
    assert device.virtio is not None
    return device.vhost.resets, device.driver_end.figures(1).packets


def in_memory(path: Path, folder: Path) -> Topology:
    """Return an example, with a device that is in all of them, and without network interfaces."""
    raw = tomllib.loads(moved_to(folder, path.read_text()) + BYSTANDER)
    for device in raw["devices"].values():
        if device.get("type", "net") == "net":
            for side in ("driver", "device"):
                device[side] = {"kind": "memory"}
    return from_tables(raw, path.name, sized=False)


def all_pairs(count: int) -> Iterator[tuple[int, int]]:
    """Yield each ordered pair of different numbers once, each beginning with the end of the one before."""
    at = 0
    left = {number: [other for other in range(count) if other != number] for number in range(count)}
    tour, stack = [], [at]
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            tour.append(stack.pop())
    tour.reverse()
    yield from pairwise(tour)


async def send_for_ever(world: World) -> None:
    """Send frames through the device that stays, and wait for each."""
    near, far = world.memory_port("stays", "driver"), world.memory_port("stays", "device")
    frame = bytes.fromhex("020000000002020000000001") + b"\x88\xb5" + bytes(50)
    while True:
        near.inject(frame)
        with trio.fail_after(1):
            await far.receive()
        await trio.sleep(0.01)


async def test_every_example_becomes_every_other_one_and_what_stays_is_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = [in_memory(path, tmp_path) for path in EXAMPLES if path.stem not in OF_OTHERS]
    pairs = list(all_pairs(len(wanted)))
    assert len(set(pairs)) == len(wanted) * (len(wanted) - 1)
    async with open_world(wanted[0], "t") as world:
        await world.wait_up()
        resets, _ = bystanders(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_for_ever, world)
            for at, to in pairs:
                before = bystanders(world)[1]
                planned = await world.apply(wanted[to], dry_run=True)
                assert await world.apply(wanted[to]) == planned, (at, to)
                assert not any(step.name in ("stays", "other") for step in planned)
                assert await world.apply(wanted[to]) == ()
                assert world.devices.keys() >= wanted[to].devices.keys()
                await trio.sleep(0.02)
                assert bystanders(world)[0] == resets
                assert bystanders(world)[1] > before
            nursery.cancel_scope.cancel()


async def test_an_application_that_fails_makes_the_removed_parts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(RUNNING, "t") as world:
        await world.wait_up()
        before = attrs.evolve(world.topology, devices=dict(world.topology.devices))
        devices = {**RUNNING.devices, "net0": attrs.evolve(RUNNING.devices["net0"], queue_size=64)}
        wanted = attrs.evolve(RUNNING, devices=devices)
        links = {**RUNNING.links, "c": attrs.evolve(RUNNING.links["a"], trace="/nowhere/trace")}
        with pytest.raises(ConfigError, match=r"links\.c\.trace = '/nowhere/trace': No such file or directory"):
            await world.apply(attrs.evolve(wanted, links=links))
        assert world.topology.devices == before.devices
        assert "c" not in world.links
        await world.wait_up()
        unknown = attrs.evolve(RUNNING, links={name: RUNNING.links[name] for name in ("pcie0", "a")})
        with pytest.raises(ConfigError, match="secondary"):
            await world.apply(unknown)
        assert world.devices["net0"].up


async def test_a_size_that_is_left_open_stays_unless_it_is_too_small() -> None:
    text = """
    [hosts.box]
    memory = {memory}
    [devices.net0]
    transport = "mmio"
    host = "box"
    queue_size = {size}
    driver.kind = "memory"
    device.kind = "memory"
    """
    async with open_world(parse(text.format(memory=300, size=64)), "t") as world:
        wanted = parse(text.replace("memory = {memory}", "").format(size=128))
        open_size = attrs.evolve(wanted, hosts={"box": attrs.evolve(wanted.hosts["box"], memory=None)})
        steps = await world.apply(open_size)
        assert [str(step) for step in steps] == [
            "remove device net0 (changed: queue_size)",
            "add device net0 (changed: queue_size)",
        ]
        assert world.topology.hosts["box"].memory == 300
        large: dict[str, Any] = {"queue_size": 32768, "mtu": 9000}
        devices = {"net0": attrs.evolve(wanted.devices["net0"], **large)}
        assert [step.kind for step in await world.apply(attrs.evolve(open_size, devices=devices))] == [
            "device",
            "host",
            "host",
            "device",
        ]
        await world.wait_up()
