"""The vhost-user back end with a front end by hand: features, memory, rings that start, stop and go on."""

from __future__ import annotations

from typing import Any

import trio
from vhost_user_rig import FrontEnd, Ring, open_bench

from drivers.devices.blk import BlkPlug
from vnet.testing.blk import StubbornStore

SIZE = 1 << 20


def plug(**options: Any) -> BlkPlug:
    return BlkPlug(StubbornStore(SIZE), **options)


async def request(front: FrontEnd, ring: Ring, kind: int, sector: int, data: bytes | int) -> bytes:
    """One request of a driver; what came back, the status last."""
    begin(front, ring, kind, sector, data)
    return await finish(front, ring)


def begin(front: FrontEnd, ring: Ring, kind: int, sector: int, data: bytes | int) -> None:
    header = front.buffer(kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little"))
    body, status = front.buffer(data), front.buffer(b"\xff")
    readable, writable = [(header.addr, 16)], [(status.addr, 1)]
    if isinstance(data, int):
        writable.insert(0, (body.addr, body.size))
    else:
        readable.append((body.addr, body.size))
    ring.queue.enable_cb()
    ring.queue.add(readable, writable, (body, status))
    if ring.queue.publish():
        ring.kick()


async def finish(front: FrontEnd, ring: Ring) -> bytes:
    with trio.fail_after(5):
        while (used := ring.queue.get()) is None:  # noqa: ASYNC110  as a driver that polls
            await trio.sleep(0.01)
    (body, status), _ = used
    return bytes(front.memory.view(body.addr, body.size)) + bytes(front.memory.view(status.addr, 1))


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
