"""A back end that is stopped or killed: what waits for it ends, and so does a system."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from drivers.devices.blk import DiskError
from drivers.storage.submit import PATIENCE
from drivers.transports.vhost_user.constants import FrontendRequest
from drivers.transports.vhost_user.front import CHECK_INTERVAL, CHECK_TIMEOUT, LEAVE_TIMEOUT
from support.topologies import VHOST_USER_DISK
from vnet.system.world import open_world
from vnet.testing import until
from vnet.testing.scripted import SILENCE, ScriptedBack
from vnet.topology import parse

R = FrontendRequest


@pytest.mark.hostile("C05")
@pytest.mark.parametrize("resetting", [False, True])
async def test_a_system_ends_soon_although_its_back_end_does_not_answer(resetting: bool, tmp_path: Path) -> None:
    back, path = ScriptedBack(), tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path)
        async with open_world(parse(VHOST_USER_DISK.format(path=path)), "test") as world:
            device = world.devices["disk0"]
            await world.wait_up()
            for request in R:
                back.lies[request] = lambda _: SILENCE
            if resetting:  # and is waited for when the end comes
                assert device.virtio is not None
                nursery.start_soon(device.driver_host.virtio.rebind, device.virtio)
                await trio.sleep(1)
            began = trio.current_time()
        assert trio.current_time() - began <= LEAVE_TIMEOUT + 0.1
        nursery.cancel_scope.cancel()


@pytest.mark.hostile("C05")
async def test_requests_wait_for_a_stopped_back_end_as_for_one_that_is_gone(tmp_path: Path) -> None:
    back, path = ScriptedBack(), tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path)
        async with open_world(parse(VHOST_USER_DISK.format(path=path)), "test") as world:
            device = world.devices["disk0"]
            await world.wait_up()
            await trio.sleep(10 * CHECK_INTERVAL)
            assert device.up, "one that answers may be idle, and take its time for requests"
            for request in R:
                back.lies[request] = lambda _: SILENCE
            began = trio.current_time()
            disk = device.driver_end.settings.disk  # type: ignore[attr-defined]
            with pytest.raises(DiskError):
                await disk.read(0, 512)
            assert trio.current_time() - began <= CHECK_INTERVAL + CHECK_TIMEOUT + PATIENCE + 1
            assert not device.up
            back.lies.clear()
            await world.wait_up()
        nursery.cancel_scope.cancel()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.hostile("C04")
async def test_a_back_end_that_was_killed_is_noticed_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    back, path = ScriptedBack(), tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path)
        async with open_world(parse(VHOST_USER_DISK.format(path=path)), "test") as world:
            device, handles = world.devices["disk0"], []
            for _ in range(4):
                await world.wait_up()
                handles.append(open_files())
                assert back.socket is not None
                back.socket.close()
                await until(lambda: not device.up, 0.2)
            assert handles[1:] == handles[1:2] * 3
            await world.wait_up()
        nursery.cancel_scope.cancel()
