"""Dirty pages over vhost-user: every write of a device is in the front end's log."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.ports import HEADER_SIZE
from drivers.devices.net import NetPlug
from drivers.transports.vhost_user.payloads import VringState
from rings.features import RingFeature, mask
from rings.memory import Addr
from rings.observers.dirty import SPAN
from support.rigs.dirty_log import DirtyFile, bench_, files, logging
from support.rigs.ring import get
from support.rigs.vhost_user import NUM, FrontEnd, R, Ring, begin, finish, request
from vnet.linux.ipc import connect
from vnet.ports.packet.memory import MemoryPort
from vnet.system.exports import DeviceExport, open_exports
from vnet.testing import maps
from vnet.topology import parse_device

__all__ = ["files"]  # a fixture


PAGE = 4096
OFFSET = 2 * PAGE
"""Where the log starts in its file."""
DISK = 1 << 20


def touched(front: FrontEnd, before: bytes) -> set[int]:
    """Numbers of the pages that are not what they were."""
    now = bytes(front.memory.view(front.memory.base, front.region.size))
    first = front.memory.base // PAGE
    return {
        first + page
        for page in range(len(now) // PAGE)
        if now[page * PAGE : page * PAGE + PAGE] != before[page * PAGE : page * PAGE + PAGE]
    }


def spans(*ranges: tuple[int, int]) -> set[int]:
    """The pages that may be marked where these (address, bytes) may be written."""
    return {page for addr, size in ranges for page in range(addr // SPAN * 8, -(-(addr + size) // SPAN) * 8)}


def contents(front: FrontEnd) -> bytes:
    return bytes(front.memory.view(front.memory.base, front.region.size))


async def answered(ring: Ring) -> int:
    """Return the token of the next used chain; the driver writes nothing meanwhile."""
    with trio.fail_after(5):
        while (used := get(ring.queue)) is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return used[0]


@pytest.mark.hostile("V19")
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
async def test_every_page_that_a_disk_changes_is_marked_and_no_other_span(packed: bool, files: list[DirtyFile]) -> None:
    async with bench_(files, packed=packed) as bench, bench.front() as front, logging(front, files) as file:
        [ring] = front.rings
        data = os.urandom(64 << 10)
        assert (await request(front, ring, 1, 8, data))[-1] == 0
        file.take()
        begin(front, ring, 0, 8, len(data))
        before = contents(front)
        body, status = ring.begun[await answered(ring)]
        changed, marked = touched(front, before), file.take()
        assert len(changed) > len(data) // PAGE
        assert changed <= marked
        areas = [(buffer.addr, buffer.size) for buffer in ring.buffers[0 if packed else 2 :: 2]]
        assert marked <= spans((body.addr, body.size), (status.addr, 1), *areas)
        assert bytes(front.memory.view(body.addr, body.size)) == data
        # Switched off and on again while it runs, without a new log.
        await front.log(False)
        file.take()
        assert (await request(front, ring, 0, 8, 512))[-1] == 0
        assert file.take() == set()
        await front.log(True)
        assert (await request(front, ring, 0, 8, 512))[-1] == 0
        assert file.take()


@pytest.mark.hostile("V19")
async def test_a_ring_itself_is_logged_where_its_flag_says_so_at_the_address_it_says(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front, logging(front, files) as file:
        [ring] = front.rings
        used = spans((ring.addrs.device, 6 + 8 * NUM))
        elsewhere = attrs.evolve(front.addrs(ring, log=True), log=0)
        for addrs, actual in (
            (front.addrs(ring, log=True), used),
            (elsewhere, spans((0, 1))),
            (front.addrs(ring), set()),
        ):
            assert await front.tell(R.SET_VRING_ADDR, addrs)
            file.take()
            begin(front, ring, 1, 0, bytes(512))
            _, status = ring.begun[await answered(ring)]
            assert (file.take() | spans((status.addr, 1))) == actual | spans((status.addr, 1))


async def test_logged_rings_stand_still_until_there_is_a_log_area(files: list[DirtyFile]) -> None:
    """QEMU starts a device during a migration that way: rings first, the log after them."""
    async with bench_(files) as bench, bench.front() as front, logging(front, files) as file:
        [ring] = front.rings
        assert (await request(front, ring, 1, 0, bytes(512)))[-1] == 0
        before = maps()
        base = (await front.ask(R.GET_VRING_BASE, VringState(0, 0))).num
        assert maps() == before - 1, "what was said of the log is over with the rings"
        assert await front.start(ring, base)
        file.take()
        begin(front, ring, 0, 0, 512)
        await trio.sleep(1)
        assert get(ring.queue) is None
        await front.log_to(file.fd, file.size, OFFSET)
        assert (await finish(front, ring))[-1] == 0
        assert file.take()
        # Or it is no longer wanted.
        base = (await front.ask(R.GET_VRING_BASE, VringState(0, 0))).num
        assert await front.start(ring, base)
        begin(front, ring, 0, 0, 512)
        await trio.sleep(1)
        assert get(ring.queue) is None
        await front.log(False)
        assert (await finish(front, ring))[-1] == 0


async def test_an_event_tells_that_something_was_logged(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        await front.bring_up()
        assert await front.tell(R.SET_LOG_FD, None, [events[0]])
        assert not await front.tell(R.SET_LOG_FD, None, [front.memory.fd])
        async with logging(front, files, up=False):
            os.eventfd_read(events[0])
            assert await front.tell(R.SET_LOG_FD, None, [events[1]])
            assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
        assert os.eventfd_read(events[1])
        with pytest.raises(BlockingIOError):
            os.eventfd_read(events[0])
        for event in events:
            os.close(event)


@pytest.mark.hostile("V19")
async def test_frames_over_several_buffers_are_marked(files: list[DirtyFile], tmp_path: Path) -> None:
    """Those that were taken and given back untouched as well: something was read into them and dropped, maybe."""
    export = DeviceExport(
        parse_device({"type": "net", "mtu": 9000, "device": {"kind": "memory"}}, "test"), tmp_path / "net"
    )
    features = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, 15))
    async with open_exports({"net": export}) as served:
        plug = served["net"].end.settings
        assert isinstance(plug, NetPlug)
        assert isinstance(plug.port, MemoryPort)
        front = FrontEnd(await connect(tmp_path / "net"), features, rings=2)
        async with logging(front, files) as file:
            ring = front.rings[0]
            buffers = [front.buffer(PAGE) for _ in range(NUM)]
            for token, buffer in enumerate(buffers):
                ring.queue.add((), ((buffer.addr, buffer.size),), token)
            ring.queue.publish()
            ring.kick()
            await trio.sleep(0.01)
            for size in (60, 9000):
                file.take()
                before = contents(front)
                plug.port.inject(bytes(12) + os.urandom(size - 12))
                await trio.sleep(0.01)
                changed, marked = touched(front, before), file.take()
                assert len(changed) >= size // PAGE + 1
                assert changed <= marked
            got = 0
            while (used := get(ring.queue)) is not None:
                got += used[1]
            assert got == 60 + 9000 + 2 * HEADER_SIZE
        front.close()


@pytest.mark.hostile("V19")
async def test_the_answers_of_a_scsi_host_are_marked(files: list[DirtyFile], tmp_path: Path) -> None:
    units = {"luns": [{"store": "memory", "size": 1}]}
    export = DeviceExport(parse_device({"type": "scsi", "device": units}, "test"), tmp_path / "scsi")
    features = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
    async with open_exports({"scsi": export}):
        front = FrontEnd(await connect(tmp_path / "scsi"), features, rings=3)
        async with logging(front, files) as file:
            ring = front.rings[2]
            inquiry = bytes((1, 0, 0x40, 0, 0, 0, 0, 0)) + bytes(11) + bytes((0x12, 0, 0, 0, 36)) + bytes(27)
            requests, response, data = front.buffer(inquiry), front.buffer(108), front.buffer(2 * PAGE)
            ring.queue.add(((requests.addr, 51),), ((response.addr, 108), (Addr(data.addr + PAGE - 8), 36)), 0)
            ring.queue.publish()
            ring.kick()
            before = contents(front)
            await answered(ring)
            changed, marked = touched(front, before), file.take()
            assert {(data.addr + PAGE - 8) // PAGE, (data.addr + PAGE) // PAGE} <= changed <= marked
        front.close()
