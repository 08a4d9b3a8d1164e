"""The tables of a running system: what is found in them by name, and how links enter and leave them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from support.changes import EMPTY, act, sample
from vnet.host.host import Host
from vnet.spec import MIB
from vnet.system.tables import System
from vnet.system.world import open_world
from vnet.topology import Topology


def tables(system: System) -> tuple[set[str], ...]:
    return tuple({*table} for table in (system.links, system.faults, system.timed, system.registers, system.buses))


@pytest.mark.parametrize(("changes", "timed"), [({}, set()), ({"lanes": 4}, {"pcie0"})])
async def test_a_link_enters_all_tables_and_leaves_them(changes: dict[str, Any], timed: set[str]) -> None:
    parts = sample("net")
    system = System("t", attrs.evolve(parts, links={"pcie0": attrs.evolve(parts.links["pcie0"], **changes)}))
    root, endpoint = (Host(name, MIB, system.events) for name in ("rc", "ep"))
    rc = root.rc
    link = system.add_link("pcie0", rc)
    system.buses["pcie0"] = rc.attach(link)
    one = {"pcie0"}
    assert tables(system) == (one, one, timed, one, one)
    endpoint.add_controller("pcie0", link).start()
    assert link.up
    for _ in range(2):  # the second time is harmless
        system.remove_link("pcie0")
        assert tables(system) == (set(),) * 5
        assert not link.up
    assert system.add_link("pcie0", rc) is not link
    root.close()
    endpoint.close()


def test_a_host_has_a_namespace_of_the_systems_name() -> None:
    assert System("office", EMPTY).netns("rc") == "office-rc"


async def test_programs_use_the_drivers_end_and_the_end_behind_all_mediators() -> None:
    async with open_world(sample("net", "pci", "mediated"), "t") as world:
        await world.wait_up()
        local = world.devices["net0"].local
        assert local is not None
        assert world.ends("net0") == (world.devices["net0"].driver_end, local.driver_end)
        assert world.running("net0").ends == world.ends("net0")
        assert world.memory_port("net0", "device") is not world.memory_port("net0", "driver")
        await act(world, "net0")


async def test_only_a_memory_port_is_one() -> None:
    async with open_world(sample("blk"), "t") as world:
        for end in ("driver", "device"):
            with pytest.raises(TypeError, match=f"the port at the {end} end of blk0 is no memory port"):
                world.memory_port("blk0", end)
        with pytest.raises(KeyError):
            world.memory_port("blk1", "driver")


async def test_memory_can_be_closed_twice() -> None:
    async with open_world(Topology(sample("net").hosts, {}, {}), "t") as world:
        world.close()
        world.close()
