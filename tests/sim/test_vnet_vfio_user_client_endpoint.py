"""A link whose endpoint is another process: it goes down with the connection, and comes up with the next one."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from support.rigs.two_processes import clock
from support.rigs.vfio_user_server import open_scene
from vnet.testing import until
from vnet.vfio_user.constants import Command

__all__ = ["clock"]  # a fixture

C = Command


async def test_a_server_that_hangs_up_takes_the_link_down_and_up(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        function = scene.function
        for epoch in (2, 3):
            scene.server.hang_up()
            await until(lambda: scene.link.epoch == epoch and function.online, 60)  # noqa: B023
            assert scene.troubles.pop() == "the server hung up"
            assert scene.function is function
            scene.works()


async def test_taking_the_link_down_resets_the_function(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        before = scene.server.log.count(C.DEVICE_RESET)
        scene.link.bring_down()
        assert scene.server.log.count(C.DEVICE_RESET) == before + 1
        assert scene.connected
        scene.link.bring_up()
        scene.works()
        assert scene.troubles == []


async def test_a_server_that_starts_later_is_waited_for(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        (tmp_path / "server").rename(tmp_path / "away")
        scene.server.hang_up()
        trouble = await scene.trouble(2)
        assert trouble.endswith("no program listens there; is the other process started?")
        await trio.sleep(0.01)
        (tmp_path / "away").rename(tmp_path / "server")
        await scene.up()
        scene.works()
