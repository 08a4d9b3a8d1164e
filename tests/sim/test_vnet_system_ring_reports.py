"""Rings of served devices: as they stand in the memory of a driver in another process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from support.rigs.qmp import open_client
from support.rigs.vfio_user import Client as FunctionClient
from vnet.linux.ipc import connect
from vnet.qmp.server import ControlServer
from vnet.system.config_spaces import take_config_spaces
from vnet.system.exports import DeviceExport, ExportSystem, open_export_system
from vnet.system.ring_looks import RingLooks
from vnet.system.ring_reports import take_ring
from vnet.system.snapshot import take_snapshot
from vnet.system.world import World, open_world
from vnet.testing import until
from vnet.topology import parse, parse_device

TOPOLOGY = """\
[hosts.rc]
memory = 48
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "{path}"
ring = "{ring}"
driver = {{ kind = "memory" }}
"""
SIDES = ["receiveq1", "transmitq1"]


@asynccontextmanager
async def two_processes(folder: Path, ring: str) -> AsyncIterator[tuple[World, ExportSystem]]:
    """A driver's system, and that of its device."""
    path = folder / "net.sock"
    spec = parse_device({"type": "net", "ring": ring, "device": {"kind": "memory"}}, "test")
    async with (
        open_world(parse(TOPOLOGY.format(path=path, ring=ring)), "driver") as world,
        open_export_system({"net0": DeviceExport(spec, path)}, "device") as exported,
    ):
        await world.wait_up()
        await until(lambda: exported.world.devices["net0"].up)
        yield world, exported


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("queue", SIDES)
async def test_the_device_s_side_sees_the_ring_that_the_driver_sees(tmp_path: Path, ring: str, queue: str) -> None:
    async with two_processes(tmp_path, ring) as (world, exported):
        await trio.sleep(1)
        mine = take_ring(world.devices["net0"], queue, RingLooks(), 0.0)
        theirs = take_ring(exported.world.devices["net0"], queue, RingLooks(), 0.0)
    assert mine.driver is not None
    assert mine.ring is not None
    assert theirs.ring is not None
    assert theirs.ring.format == ring
    assert attrs.evolve(theirs.ring, used=()) == attrs.evolve(mine.ring, used=())
    assert (theirs.driver, mine.device, theirs.device is not None) == (None, None, True)
    assert bool(theirs.ring.chains) == (queue == "receiveq1")


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_looks_tell_how_long_a_chain_of_another_process_is_outstanding(tmp_path: Path, ring: str) -> None:
    looks = RingLooks()
    async with two_processes(tmp_path, ring) as (_, exported):
        await trio.sleep(1)
        device = exported.world.devices["net0"]
        waited = [take_ring(device, queue, looks, now).waited for queue in SIDES for now in (0.0, 5.0)]
    assert waited == [0.0, 5.0, None, None]


async def test_a_look_at_a_served_device_changes_nothing_and_a_device_without_a_driver_has_no_ring(
    tmp_path: Path,
) -> None:
    async with two_processes(tmp_path, "split") as (world, exported):
        device = exported.world.devices["net0"]
        before = take_snapshot(exported.world)
        take_ring(device, "receiveq1", exported.world.ring_looks, 0.0)
        assert take_snapshot(exported.world) == before
        side = before.devices["net0"].driver
        assert (side.host, side.foreign, side.enumerated, side.port.live) == ("frontend", True, False, True)
        for socket in world.hosts["rc"].sockets:
            await world.hosts["rc"].vhost_user.unregister_device(socket)
        await until(lambda: not device.driver_end.live)
        assert take_ring(device, "receiveq1", RingLooks(), 0.0).ring is None
        assert (device.up, device.trouble()) == (False, "no driver is connected")


async def test_a_function_shows_its_ring_in_the_client_s_memory_and_its_configuration_space(tmp_path: Path) -> None:
    path = tmp_path / "s"
    export = DeviceExport(parse_device({"type": "blk", "device": {"size": 1}}, "test"), path, vfio_user=True)
    async with open_export_system({"disk": export}, "t") as exported:
        device = exported.world.devices["disk"]
        client = FunctionClient(await connect(path))
        await client.agree()
        await client.share()
        assert device.trouble() == "the driver has not set DRIVER_OK"
        await client.bring_up()
        assert device.up
        await client.works()
        report = take_ring(device, "requestq1", RingLooks(), 0.0)
        assert report.ring == client.ring.view()
        view = take_snapshot(exported.world)
        assert (view.links["pcie0"].root, view.links["pcie0"].endpoint) == ("client", "serve")
        [function] = take_config_spaces(exported.world).functions
        assert (function.host, function.name, function.owner) == ("client", "0000:01:00.0", "disk")
        await client.unshare()
        await client.ask(99)
        assert take_ring(device, "requestq1", RingLooks(), 0.0).ring is None
        client.close()
        await until(lambda: not device.driver_end.live)


async def test_commands_that_need_the_driver_are_refused(tmp_path: Path) -> None:
    async with two_processes(tmp_path, "split") as (_, exported), open_client(ControlServer(exported.world)) as client:
        await client.shake_hands()
        change = {"name": "net0", "setting": "promisc", "value": "on"}
        for command, given, why in (
            ("device-reset", {"name": "net0"}, "net0: its driver is in another process, which alone can reset it"),
            ("device-set", change, "net0: promisc belongs to another process"),
        ):
            reply = await client.say({"execute": command, "arguments": given})
            assert reply["error"] == {"class": "GenericError", "desc": why}
        arguments = {"path": "/machine/peripheral/net0/virtio-backend", "queue": 0}
        status = await client.say({"execute": "x-query-virtio-queue-status", "arguments": arguments})
        element = await client.say({"execute": "x-query-virtio-queue-element", "arguments": arguments})
    assert status["return"]["vring-num"] == 256  # type: ignore[index]
    assert element["return"]["descs"]  # type: ignore[index]
