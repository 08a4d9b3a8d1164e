"""Requests of as many segments as the configuration promises, through rings that are smaller than that."""

from __future__ import annotations

import struct

import pytest
import trio

from drivers.devices.blk import BlkPlug
from drivers.devices.scsi import ScsiStatus
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.layout import HEADER, RESPONSE
from drivers.transports.vhost_user.payloads import Config
from rings.layout import NEXT, WRITE
from rings.memory import Addr
from rings.testing import Desc, RawRing
from support.rigs.vhost_user import R, open_bench
from vnet.testing import Pair
from vnet.testing.blk import StubbornStore
from vnet.testing.checks import until
from vnet.testing.hostile import HostileDriver, hostile_driver
from vnet.testing.scsi import DISK, ScsiOptions, open_scsi_pair

SEGMENTS = 126
"""The limits that QEMU shows for any vhost-user SCSI host, and Linux's use of them."""
REQUESTS, PENDING = 2, 0xAA


def table(parts: list[Desc]) -> list[Desc]:
    """The entries of an indirect table, linked in order as Linux does it."""
    last = len(parts) - 1
    return [Desc(p.addr, p.size, p.flags | (NEXT if i < last else 0), i + 1) for i, p in enumerate(parts)]


@pytest.mark.hostile("I04")
async def test_a_disk_keeps_its_promise_in_a_ring_of_eight() -> None:
    async with open_bench(BlkPlug(StubbornStore(1 << 20))) as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        config = await front.ask(R.GET_CONFIG, Config(0, 0, bytes(60)))
        [segments] = struct.unpack_from("<I", config.data, 12)
        assert segments == SEGMENTS > ring.num
        raw = RawRing(front.memory, ring.num, ring.addrs)
        header, data, status = front.buffer(bytes(16)), front.buffer(512 * segments), front.buffer(b"\xff")
        parts = [Desc(header.addr, 16), *(Desc(data.addr + 512 * i, 512, WRITE) for i in range(segments))]
        parts.append(Desc(status.addr, 1, WRITE))
        spot = front.buffer(16 * len(parts))
        raw.chain(0, raw.table(Addr(spot.addr), *table(parts)))
        raw.offer(0)
        ring.kick()
        with trio.fail_after(5):
            while raw.used_idx != 1:  # noqa: ASYNC110  as a driver that polls
                await trio.sleep(0.01)
        assert bytes(front.memory.view(status.addr, 1)) == b"\0"


async def scsi_read(driver: HostileDriver[Pair], segments: int) -> Addr:
    """Make a read of that many blocks available, each block a segment; return where the response goes."""
    request = HEADER.pack(DISK.emit(), 1, 0, 0, 0) + commands.read(0, segments).ljust(32, b"\0")
    response = driver.put(bytes([PENDING]) * (RESPONSE.size + 96))
    data = driver.put(bytes(512 * segments))
    parts = [Desc(driver.put(request), len(request)), Desc(response, RESPONSE.size + 96, WRITE)]
    parts += [Desc(Addr(data + 512 * i), 512, WRITE) for i in range(segments)]
    ring, spot = driver.rings[REQUESTS], driver.put(bytes(16 * len(parts)))
    ring.chain(0, ring.table(spot, *table(parts)))
    ring.offer(0)
    driver.kick(REQUESTS)
    return response


@pytest.mark.hostile("I04")
async def test_a_scsi_host_takes_as_many_segments_in_any_ring_and_no_more() -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=3)
        for status in (ScsiStatus.CHECK_CONDITION, ScsiStatus.GOOD):  # the unit attention of the power-on first
            response = await scsi_read(driver, SEGMENTS)
            await until(lambda at=response: driver.get(at, 1)[0] != PENDING)  # type: ignore[misc]
            _, _, _, actual, _ = RESPONSE.unpack(driver.get(response, RESPONSE.size))
            assert actual == status
        await scsi_read(driver, SEGMENTS + 1)
        await until(lambda: f"indirect table of {16 * (SEGMENTS + 3)} bytes" in "".join(pair.vhost.failures))
