"""Parts that come and go: a system of one device, its exercise, and what a system holds."""

from __future__ import annotations

import gc
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from vnet.ends import DEVICE_TYPES
from vnet.ends.base import SideName
from vnet.system.world import World
from vnet.testing.footprint import fds, maps
from vnet.topology import Topology, parse
from vnet.topology.samples import built_in

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


RUNNING = parse(
    """
    [hosts.rc]
    [hosts.ep]
    [hosts.soc]
    [links.pcie0]
    root = "rc"
    endpoint = "ep"
    [links.a]
    root = "ep"
    endpoint = "soc"
    [links.b]
    root = "rc"
    endpoint = "soc"
    [ntbs.ntb0]
    host = "soc"
    primary = "a"
    secondary = "b"
    [devices.net0]
    link = "pcie0"
    driver.kind = "memory"
    device.kind = "memory"
    [devices.net1]
    transport = "ntb"
    ntb = "ntb0"
    driver.kind = "memory"
    device.kind = "memory"
    """
)
"""A topology with a part of each kind, and with parts on others."""
