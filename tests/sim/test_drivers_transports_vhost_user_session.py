"""The vhost-user back end with a front end by hand: features, memory, rings that start, stop and go on."""

from __future__ import annotations

from typing import Any

import trio

from drivers.devices.blk import BlkPlug
from support.rigs.vhost_user import open_bench, request
from vnet.testing.blk import StubbornStore

SIZE = 1 << 20


def plug(**options: Any) -> BlkPlug:
    return BlkPlug(StubbornStore(SIZE), **options)


async def test_a_disk_is_written_and_read_and_the_driver_is_called() -> None:
    async with open_bench(plug()) as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        data = bytes(range(256)) * 4
        assert (await request(front, ring, 1, 3, data))[-1] == 0
        assert ring.called()
        assert await request(front, ring, 0, 3, 1024) == data + b"\0"
        assert ring.called()


async def test_the_whole_thing_again_by_the_next_front_end_without_a_restart() -> None:
    async with open_bench(plug()) as bench:
        for turn in range(3):
            async with bench.front() as front:
                await front.bring_up()
                assert (await request(front, front.rings[0], 1, turn, bytes(512)))[-1] == 0
        assert bench.back.statistics.sessions == 3
        assert bench.errors == []


async def test_cancelling_everything_while_a_device_runs_ends() -> None:
    with trio.move_on_after(1) as scope:
        async with open_bench(plug()) as bench, bench.front() as front:
            await front.bring_up()
            await trio.sleep_forever()
    assert scope.cancelled_caught
