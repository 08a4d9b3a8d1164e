"""Dirty pages over vhost-user: what devices write is in the log a front end gave, and it can't be had any other way."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from drivers.contracts.ports import HEADER_SIZE
from drivers.devices.blk import BlkPlug
from drivers.devices.net import NetPlug
from drivers.transports.vhost_user.constants import F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeature
from drivers.transports.vhost_user.messages import emit
from drivers.transports.vhost_user.payloads import U64, Log, MemRegion, SingleRegion, VringFd, VringState
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from rings.features import RingFeature, mask
from rings.memory import Addr
from rings.observers.dirty import SPAN, dirty_log_size
from support.rigs.vhost_user import NUM, Bench, FrontEnd, HungUp, R, Ring, begin, finish, open_bench, request
from vnet.linux.ipc import connect
from vnet.ports.packet.memory import MemoryPort
from vnet.system.exports import DeviceExport, open_exports
from vnet.testing import fds, maps
from vnet.testing.blk import StubbornStore
from vnet.topology import parse_device

PAGE = 4096
OFFSET = 2 * PAGE
"""Where the log starts in its file."""
DISK = 1 << 20


class DirtyFile:
    """The memory of a log, as QEMU makes it."""

    def __init__(self, size: int, *, sealed: bool = True) -> None:
        self.size = size
        self.fd = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, OFFSET + size)
        if sealed:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    def take(self) -> set[int]:
        """Numbers of the pages that are marked; none is, after that."""
        bits = os.pread(self.fd, self.size, OFFSET)
        os.pwrite(self.fd, bytes(self.size), OFFSET)
        return {8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def needed(front: FrontEnd) -> int:
    """Bytes of a log for all of its memory, in whole words."""
    return -(-dirty_log_size(front.region.addr + front.region.size) // 8) * 8


@pytest.fixture
def files() -> Iterator[list[DirtyFile]]:
    made: list[DirtyFile] = []
    yield made
    for file in made:
        file.close()


@asynccontextmanager
async def logging(
    front: FrontEnd, files: list[DirtyFile], *, up: bool = True, protocol_features: int = PROTOCOL_FEATURES
) -> AsyncIterator[DirtyFile]:
    """A device that runs, whose front end was told to log."""
    if up:
        await front.bring_up(protocol_features)
    files.append(file := DirtyFile(needed(front)))
    await front.log_to(file.fd, file.size, OFFSET)
    await front.log(True)
    file.take()
    yield file


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


async def answered(ring: Ring) -> Any:
    """The token of what was used next; the driver writes nothing meanwhile."""
    with trio.fail_after(5):
        while (used := ring.queue.get()) is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return used[0]


@asynccontextmanager
async def bench_(files: Sequence[DirtyFile] = (), **options: Any) -> AsyncIterator[Bench]:
    async with open_bench(BlkPlug(StubbornStore(DISK)), **options) as bench:
        try:
            yield bench
        finally:
            for file in files:
                file.close()


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
        body, status = await answered(ring)
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
        for addrs, found in (
            (front.addrs(ring, log=True), used),
            (elsewhere, spans((0, 1))),
            (front.addrs(ring), set()),
        ):
            assert await front.tell(R.SET_VRING_ADDR, addrs)
            file.take()
            begin(front, ring, 1, 0, bytes(512))
            _, status = await answered(ring)
            assert (file.take() | spans((status.addr, 1))) == found | spans((status.addr, 1))


async def test_rings_that_are_logged_stand_still_until_it_is_said_where_to(files: list[DirtyFile]) -> None:
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
        assert ring.queue.get() is None
        await front.log_to(file.fd, file.size, OFFSET)
        assert (await finish(front, ring))[-1] == 0
        assert file.take()
        # Or it is no longer wanted.
        base = (await front.ask(R.GET_VRING_BASE, VringState(0, 0))).num
        assert await front.start(ring, base)
        begin(front, ring, 0, 0, 512)
        await trio.sleep(1)
        assert ring.queue.get() is None
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
            for buffer in buffers:
                ring.queue.add((), ((buffer.addr, buffer.size),), buffer)
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
            while (used := ring.queue.get()) is not None:
                got += used[1]
            assert got == 60 + 9000 + 2 * HEADER_SIZE
        front.close()


@pytest.mark.hostile("V19")
async def test_what_a_scsi_host_answers_is_marked(files: list[DirtyFile], tmp_path: Path) -> None:
    units = {"luns": [{"store": "memory", "size": 1}]}
    export = DeviceExport(parse_device({"type": "scsi", "device": units}, "test"), tmp_path / "scsi")
    features = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
    async with open_exports({"scsi": export}):
        front = FrontEnd(await connect(tmp_path / "scsi"), features, rings=3)
        async with logging(front, files) as file:
            ring = front.rings[2]
            inquiry = bytes((1, 0, 0x40, 0, 0, 0, 0, 0)) + bytes(11) + bytes((0x12, 0, 0, 0, 36)) + bytes(27)
            asked, response, data = front.buffer(inquiry), front.buffer(108), front.buffer(2 * PAGE)
            ring.queue.add(((asked.addr, 51),), ((response.addr, 108), (Addr(data.addr + PAGE - 8), 36)), "inquiry")
            ring.queue.publish()
            ring.kick()
            before = contents(front)
            await answered(ring)
            changed, marked = touched(front, before), file.take()
            assert {(data.addr + PAGE - 8) // PAGE, (data.addr + PAGE) // PAGE} <= changed <= marked
        front.close()


# What can't be


async def acknowledged(front: FrontEnd, fd: int, size: int, offset: int = 0) -> bool:
    """Give a log as those do that want an acknowledgement instead of the empty answer."""
    await front.send(emit(R.SET_LOG_BASE, Log(size, offset), need_reply=True), [fd])
    answer, _ = await front.socket.receive(20)
    assert answer[:12] == emit(R.SET_LOG_BASE, U64(0))[:4] + bytes((5, 0, 0, 0, 8, 0, 0, 0))
    return not any(answer[12:])


@pytest.mark.hostile("V10", "V19")
async def test_logs_that_are_too_small_or_not_there_are_refused(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.bring_up()
        size = needed(front)
        files.append(file := DirtyFile(2 * size))
        before = fds(), maps()
        end = OFFSET + file.size
        for bad in ((0, 0), (8, 0), (dirty_log_size(front.region.addr + front.region.size) - 1, OFFSET)):
            assert not await acknowledged(front, file.fd, *bad)
        for bad in (
            (size, end - size + 1),
            (size, 1 << 40),
            ((1 << 64) - 1, PAGE),
            (1 << 63, 0),
            (size, (1 << 64) - 8),
        ):
            assert not await acknowledged(front, file.fd, *bad)
        for fd in (front.rings[0].kick_fd, front.rings[0].call_fd):
            assert not await acknowledged(front, fd, size)
        await trio.testing.wait_all_tasks_blocked()
        assert (fds(), maps()) == before
        for _ in range(50):
            assert await acknowledged(front, file.fd, size, OFFSET)
        await front.log(True)
        for _ in range(50):
            assert await acknowledged(front, file.fd, 2 * size, OFFSET)
            assert await acknowledged(front, file.fd, size, OFFSET)
        await trio.testing.wait_all_tasks_blocked()
        assert (fds(), maps()) == (before[0] + 1, before[1] + 1)
        # The used ring beyond its end, by the address for the log.
        addrs = attrs.evolve(front.addrs(front.rings[0], log=True), log=size * SPAN)
        assert not await front.tell(R.SET_VRING_ADDR, addrs)
        assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(addrs, log=(1 << 64) - 2))
        assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(addrs, flags=2))
        # Memory beyond its end.
        more = MemRegion(size * SPAN, PAGE, 1 << 46, 0)
        assert not await front.tell(R.ADD_MEM_REG, SingleRegion(more), [front.memory.fd])
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
        assert file.take()
    assert bench.errors == []


@pytest.mark.hostile("V10", "V19")
async def test_a_ring_beyond_the_log_that_is_said_before_it_does_not_start(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.negotiate()
        files.append(file := DirtyFile(needed(front)))
        assert await front.share()
        [ring] = front.rings
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES | 1 << F_LOG_ALL))
        await front.log_to(file.fd, file.size, OFFSET)
        beyond = attrs.evolve(front.addrs(ring, log=True), log=file.size * SPAN)
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        assert await front.tell(R.SET_VRING_ADDR, beyond)
        assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [ring.kick_fd])
        assert await front.start(ring)


@pytest.mark.hostile("V09", "V19")
@pytest.mark.parametrize("allowed", [False, True])
async def test_only_a_log_that_nobody_can_cut_off_is_taken(allowed: bool, files: list[DirtyFile]) -> None:
    async with bench_(files, allow_unsealed=allowed) as bench, bench.front() as front:
        await front.bring_up()
        files.append(file := DirtyFile(needed(front), sealed=False))
        assert await acknowledged(front, file.fd, file.size, OFFSET) == allowed
        if not allowed:
            with pytest.raises(HungUp):  # an empty answer could not say so
                await front.log_to(file.fd, file.size, OFFSET)


@pytest.mark.hostile("V04", "V19")
@pytest.mark.parametrize("count", [0, 2])
async def test_a_log_comes_with_one_file_descriptor(count: int, files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.bring_up()
        files.append(file := DirtyFile(needed(front)))
        await front.send(emit(R.SET_LOG_BASE, Log(file.size, OFFSET)), [file.fd] * count)
        assert await front.hung_up()


@pytest.mark.hostile("V10")
async def test_who_did_not_agree_on_a_log_can_not_have_one(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench, bench.front() as front:
        await front.bring_up(PROTOCOL_FEATURES & ~mask((ProtocolFeature.LOG_SHMFD,)))
        assert not await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES | 1 << F_LOG_ALL))
        assert not await front.tell(R.SET_VRING_ADDR, front.addrs(front.rings[0], log=True))
        assert not await front.tell(R.SET_LOG_FD, None, [front.rings[0].call_fd])
        files.append(file := DirtyFile(needed(front)))
        assert not await acknowledged(front, file.fd, file.size, OFFSET)
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0


@pytest.mark.hostile("V16", "V19")
async def test_a_front_end_that_goes_while_it_logs_leaves_nothing(files: list[DirtyFile]) -> None:
    async with bench_(files) as bench:
        for _ in range(3):
            async with bench.front() as front, logging(front, files):
                begin(front, front.rings[0], 1, 0, bytes(512))
        async with bench.front() as front:
            await front.bring_up()
            assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
    assert bench.errors == []


@pytest.mark.parametrize("mac", ["52:54:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"])
async def test_a_network_says_where_a_migrated_station_is_and_a_disk_offers_no_such_thing(
    mac: str, tmp_path: Path
) -> None:
    address = bytes.fromhex(mac.replace(":", ""))
    asked = U64(int.from_bytes(address, "little"))
    export = DeviceExport(parse_device({"type": "net", "device": {"kind": "memory"}}, "test"), tmp_path / "net")
    async with open_exports({"net": export}) as served:
        plug = served["net"].end.settings
        assert isinstance(plug, NetPlug)
        assert isinstance(plug.port, MemoryPort)
        front = FrontEnd(await connect(tmp_path / "net"), mask((RingFeature.VERSION_1,)), rings=2)
        await front.bring_up(PROTOCOL_FEATURES | mask((ProtocolFeature.RARP,)))
        assert await front.tell(R.SEND_RARP, asked) == (not address[0] & 1 and any(address))
        frames = []
        with suppress(trio.WouldBlock):
            while True:
                frames.append(plug.port.receive_nowait()[1])
        if mac.startswith("52"):
            [frame] = frames
            assert len(frame) == 60
            assert frame[:14] == b"\xff" * 6 + address + b"\x80\x35"
            assert frame[14:42] == bytes.fromhex("0001080006040003") + (address + bytes(4)) * 2
        else:
            assert not frames
        front.close()
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        assert not await front.tell(R.SEND_RARP, asked)
