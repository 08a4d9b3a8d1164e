"""A link whose ends are in two systems, each with its own event loop, as `vnet up --only` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from support.rigs.two_processes import PATIENCE, apart, clock, devices, disk_works
from support.topologies import TWO_HOSTS
from vnet.ends import DEVICE_TYPES
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.testing import FRAME, fds, until
from vnet.topology import Topology, parse, part_of

__all__ = ["clock"]  # a fixture

FILE = TWO_HOSTS + 'vfio_user = "{socket}"\n'


def halves(folder: Path, *kinds: str, transport: str = "pci") -> tuple[Topology, Topology]:
    """Return the root's and the endpoint's part of a topology with a device of each kind, which are its names."""
    topology = parse(FILE.format(socket=folder / "link") + devices(*kinds, transport=transport))
    return part_of(topology, "rc", "test"), part_of(topology, "ep", "test")


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
@pytest.mark.parametrize("kind", DEVICE_TYPES)
async def test_a_device_of_any_type_comes_up_over_either_transport_of_a_link(
    kind: str, transport: str, tmp_path: Path, clock: MockClock
) -> None:
    root, endpoint = halves(tmp_path, kind, transport=transport)
    async with apart(endpoint) as other, open_world(root, "test") as world:
        await world.wait_up()
        if kind == "blk":
            await disk_works(world)
        await until(lambda: other.devices[kind].up, PATIENCE)


async def test_two_functions_go_down_with_their_link_and_come_back(tmp_path: Path, clock: MockClock) -> None:
    root, endpoint = halves(tmp_path, "blk", "net")
    before = fds()
    async with open_world(root, "test") as world:
        port = world.memory_port("net", "driver")
        for turn in range(2):
            async with apart(endpoint) as other:
                await world.wait_up()
                assert world.links["pcie0"].epoch == turn + 1
                await disk_works(world)
                port.inject(FRAME)
                theirs = other.memory_port("net", "device")
                await until(lambda: theirs.statistics().tx_packets == 1, PATIENCE)  # noqa: B023
            await until(lambda: not world.devices["blk"].up, PATIENCE)
            view = take_snapshot(world).links["pcie0"]
            assert view.remote is not None
            assert (view.remote.connected, view.remote.connections) == (False, turn + 1)
            assert not view.figures.up
    assert fds() <= before


async def test_either_side_takes_the_link_down_and_up(tmp_path: Path, clock: MockClock) -> None:
    root, endpoint = halves(tmp_path, "blk")
    async with apart(endpoint) as other, open_world(root, "test") as world:
        await world.wait_up()
        world.links["pcie0"].bring_down()
        await until(lambda: not world.devices["blk"].up, PATIENCE)
        await until(lambda: not other.devices["blk"].up, PATIENCE)
        world.links["pcie0"].bring_up()
        await until(lambda: world.devices["blk"].up, PATIENCE)
        await disk_works(world)
        snapshot = take_snapshot(world).devices["blk"]
        assert snapshot.device.foreign
        assert not snapshot.driver.foreign


async def test_the_endpoint_shows_a_driver_in_another_process(tmp_path: Path) -> None:
    _, endpoint = halves(tmp_path, "blk")
    async with open_world(endpoint, "test") as world:
        await world.wait_up()
        view = take_snapshot(world)
        device, link = view.devices["blk"], view.links["pcie0"]
        assert device.driver.foreign
        assert not device.up
        assert link.remote is not None
        assert not link.remote.connected
        assert link.root == f"vfio-user {tmp_path / 'link'}"
