"""A system as indented lines."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from vnet.cli.tree import device_tree, queue_tree, tree
from vnet.system.snapshot import take_snapshot
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse

IN_MEMORY = DEFAULT.replace('"tun"', '"memory"')


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        world.memory_port("net0", "driver").inject(bytes(60))
        await world.memory_port("net0", "device").receive()
        yield world


async def test_before_the_other_side_was_found_there_is_something_to_show() -> None:
    async with open_world(parse(IN_MEMORY), "t") as world:
        system = take_snapshot(world)  # nothing had a chance to run yet
        assert not system.devices["net0"].up
        assert "\n".join(tree(system))
        await world.wait_up()


async def test_the_tree_has_every_part_on_a_line(world: World) -> None:
    text = "\n".join(tree(take_snapshot(world)))
    for part in (
        "host rc: namespace none",
        "bus 01 behind link pcie0: up, epoch 1",
        "0000:01:00.0 1af4:1041",
        "BAR 0 at 0x",
        "MSI-X: 4 vectors, on",
        "link pcie0: rc (root complex) to ep (endpoint), up, epoch 1",
        "device net0: net over pci on pcie0, 0000:01:00.0: up",
        "driver on rc: virtio0, virtio_net bound",
        "device on ep: net0, vhost_net bound",
        "negotiated: CSUM GUEST_CSUM",
        "registers: device_status 0xf, config_generation 0x0, config_msix_vector 0x0, num_queues 0x3",
        "in 1 packets 60 bytes",
        "drops: none",
    ):
        assert part in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for start in ("driver receiveq1 live 256", "driver transmitq1", "device receiveq1", "device transmitq1 live 256"):
        assert any(line.startswith(start) for line in lines)


async def test_a_device_or_a_queue_has_lines_of_its_own(world: World) -> None:
    net0 = take_snapshot(world).devices["net0"]
    first, second, *_ = device_tree("net0", net0)
    assert first == "device net0: net over pci on pcie0, 0000:01:00.0: up"
    assert second == "  driver on rc: virtio0, virtio_net bound"
    for side, queue in (("driver", net0.driver.queues[1]), ("device", net0.device.queues[1])):
        lines = list(queue_tree(side, queue))
        assert lines[0] == f"{side} transmitq1: live"
        assert "packets 1, bytes 60" in " ".join(" ".join(lines).split())
