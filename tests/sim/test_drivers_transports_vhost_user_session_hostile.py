"""Messages, descriptors and memory of a hostile vhost-user front end: each row of the list has its outcome."""

from __future__ import annotations

import os
import socket as socket_module
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from drivers.devices.blk import BlkPlug
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES
from drivers.transports.vhost_user.messages import emit
from drivers.transports.vhost_user.payloads import (
    U64,
    Inflight,
    MemRegion,
    MemTable,
    ProtocolError,
    SingleRegion,
    VringAddr,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from support.rigs.session_hostile import bench_, header, works
from support.rigs.vhost_user import MIB, NUM, USER, FrontEnd, HungUp, R, open_bench, request
from vnet.testing import fds, maps
from vnet.testing.blk import StubbornStore

SIZE = MIB


async def closes(send: Callable[[FrontEnd], Awaitable[object]], *, up: bool = False) -> None:
    """The exact outcome CLOSE: the connection ends at once with one typed error, all is freed, the next may come."""
    async with bench_() as bench:
        async with bench.front() as front:
            await (front.bring_up() if up else front.negotiate())
            with trio.fail_after(30):
                try:
                    await send(front)
                    assert await front.hung_up()
                except (HungUp, TransportLost):
                    pass
        assert all(isinstance(error, ProtocolError) for error in bench.errors), bench.errors
        assert bench.back.statistics.broken == 1
        assert not any("made no progress" in str(error) for error in bench.errors), bench.errors
        await works(bench)


@pytest.mark.hostile("V01")
async def test_a_message_byte_by_byte_and_two_at_once() -> None:
    async with bench_() as bench, bench.front() as front:
        for byte in emit(R.GET_FEATURES):
            await front.send(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()
        features = await front.answer(R.GET_FEATURES)
        await front.send(emit(R.SET_OWNER) + emit(R.GET_FEATURES))
        assert await front.answer(R.GET_FEATURES) == features


@pytest.mark.hostile("V02")
@pytest.mark.parametrize("size", [0, 7, 9, 4097, 0xFFFFFFFF])
async def test_a_size_that_can_not_be(size: int) -> None:
    await closes(lambda front: front.send(header(R.SET_FEATURES, 1, size)))


@pytest.mark.hostile("V03")
@pytest.mark.parametrize(("request_", "flags"), [(999, 1), (R.SET_OWNER, 0), (R.SET_OWNER, 5), (R.SET_OWNER, 0x101)])
async def test_an_unknown_request_is_refused_and_without_acknowledgements_closes(request_: int, flags: int) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        await front.send(header(request_, flags | 8, 0))
        body, _ = await front.socket.receive(20)
        assert body == header(request_, 5, 8) + bytes((1, *bytes(7)))
        assert await front.share()
    await closes(lambda front: front.send(header(request_, flags, 0)))


@pytest.mark.hostile("V04")
@pytest.mark.parametrize("count", [1, 2, 8, 9, 253])
async def test_unexpected_file_descriptors(count: int) -> None:
    async def send(front: FrontEnd) -> None:
        with open(os.devnull, "rb") as file:  # noqa: ASYNC230, PTH123
            await front.send(emit(R.SET_FEATURES, U64(front.features)), [file.fileno()] * count)

    await closes(send)


@pytest.mark.hostile("V04")
async def test_a_table_with_more_file_descriptors_than_regions() -> None:
    await closes(lambda front: front.post(R.SET_MEM_TABLE, MemTable((front.region,)), [front.memory.fd] * 2))


@pytest.mark.hostile("V05")
async def test_a_file_descriptor_of_another_kind_is_refused() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        ours, theirs = socket_module.socketpair()
        pipe = os.pipe()
        folder = os.open("/tmp", os.O_RDONLY)
        event = os.eventfd(0)
        for fd in (folder, ours.fileno(), pipe[0], event):
            assert not await front.tell(R.SET_MEM_TABLE, MemTable((front.region,)), [fd])
        for fd in (folder, ours.fileno(), pipe[0], front.memory.fd):
            for kind in (R.SET_VRING_CALL, R.SET_VRING_ERR):
                assert not await front.tell(kind, VringFd(0), [fd])
        for fd in (folder, pipe[0], front.memory.fd, event):
            assert not await front.tell(R.SET_BACKEND_REQ_FD, None, [fd])
        assert await front.share()
        for fd in (folder, ours.fileno(), pipe[0], front.memory.fd):
            assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [fd])
        for fd in (*pipe, folder, event):
            os.close(fd)
        ours.close()
        theirs.close()


@pytest.mark.hostile("V05")
async def test_a_file_descriptor_that_is_missing() -> None:
    await closes(lambda front: front.post(R.SET_VRING_KICK, VringFd(0)))


@pytest.mark.hostile("V05")
async def test_a_file_descriptor_with_the_last_byte() -> None:
    async def send(front: FrontEnd) -> None:
        data = emit(R.SET_VRING_CALL, VringFd(0))
        await front.send(data[:-1])
        await front.send(data[-1:], [front.rings[0].call_fd])

    await closes(send)


@pytest.mark.hostile("V06")
async def test_no_room_for_file_descriptors() -> None:
    import resource

    async def send(front: FrontEnd) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
            await front.send(emit(R.SET_VRING_CALL, VringFd(0)), [front.rings[0].call_fd])
            assert await front.hung_up()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    await closes(send)


@pytest.mark.hostile("V07")
@pytest.mark.parametrize("index", [1, 255, 256, 0xFFFF, 0x10000, 0xFFFFFFFF])
async def test_a_ring_that_is_none(index: int) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        for kind in (R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_VRING_ENABLE):
            assert not await front.tell(kind, VringState(index, 1))
        assert not await front.tell(R.SET_VRING_ADDR, VringAddr(index, 0, 0, 0, 0))
        if index < 256:
            assert not await front.tell(R.SET_VRING_CALL, VringFd(index), [front.rings[0].call_fd])
    await closes(lambda front: front.ask(R.GET_VRING_BASE, VringState(index, 0)))


@pytest.mark.hostile("V08")
async def test_memory_that_can_not_be_is_refused_and_the_old_table_stays() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        good, before = front.region, (fds(), maps())
        size, base = good.size, good.addr
        bad = [
            (MemRegion(base, 0, USER, 0),),
            (MemRegion(base, size, USER, 1 << 40),),  # beyond the file
            (MemRegion(base, 2 * size, USER, 0),),
            (MemRegion(base, size - 4096, USER, 4096 + 8),),  # in the middle of a page
            (MemRegion(base, 1 << 62, USER, 0),),
            (MemRegion((1 << 64) - 4096, size, USER, 0),),
            (MemRegion(base, size, (1 << 64) - 4096, 0),),
            (MemRegion(base, size, USER, (1 << 64) - 4096),),
            (MemRegion(base, 4096, USER, 0), MemRegion(base, 4096, USER + 4096, 0)),
            (MemRegion(base, 4096, USER, 0), MemRegion(base + 4096, 4096, USER, 0)),
            (MemRegion(base + size, size, USER + size, 0),),  # not where the ring is
        ]
        for regions in bad:
            assert not await front.tell(R.SET_MEM_TABLE, MemTable(regions), [front.memory.fd] * len(regions))
        await front.send(
            header(R.SET_MEM_TABLE, 9, 8 + 8 * 32) + struct.pack("<II", 9, 0) + bytes(256), [front.memory.fd] * 8
        )
        assert await front.answer(R.SET_MEM_TABLE) == U64(1)
        assert (fds(), maps()) == before
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
        assert await front.share(), "a table in use may be replaced"
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0


@pytest.mark.hostile("V08")
async def test_regions_that_are_added_one_by_one() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        slots = (await front.ask(R.GET_MAX_MEM_SLOTS)).value
        region, fd = front.region, front.memory.fd
        assert await front.tell(R.ADD_MEM_REG, SingleRegion(region), [fd])
        assert not await front.tell(R.ADD_MEM_REG, SingleRegion(region), [fd]), "it overlaps itself"
        other = MemRegion(region.addr, region.size // 2, region.user_addr, 0)
        assert not await front.tell(R.REM_MEM_REG, SingleRegion(other)), "there is none of that size"
        for slot in range(1, slots + 3):
            at = 8 * slot * region.size
            more = MemRegion(region.addr + at, 4096, USER + at, 0)
            assert await front.tell(R.ADD_MEM_REG, SingleRegion(more), [fd]) == (slot < slots)
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.start(front.rings[0])
        assert await front.tell(R.SET_STATUS, U64(15))
        assert not await front.tell(R.REM_MEM_REG, SingleRegion(region)), "a ring that runs is in it"
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
        await front.ask(R.GET_VRING_BASE, VringState(0, 0))
        assert await front.tell(R.REM_MEM_REG, SingleRegion(region), [fd]), "with a file descriptor, too"


@pytest.mark.hostile("V09")
@pytest.mark.parametrize("allowed", [False, True])
async def test_only_memory_sealed_against_shrinking_is_taken(allowed: bool) -> None:
    async with open_bench(BlkPlug(StubbornStore(SIZE)), allow_unsealed=allowed) as bench, bench.front() as front:
        await front.negotiate()
        fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, front.region.size)
        assert await front.tell(R.SET_MEM_TABLE, MemTable((front.region,)), [fd]) == allowed
        os.close(fd)


@pytest.mark.hostile("V11")
async def test_inflight_areas_again_and_again_and_of_sizes_that_do_not_fit() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        area = await front.ask(R.GET_INFLIGHT_FD, Inflight(0, 0, 1, NUM))
        [handle] = front.passed
        fd = handle.fileno()  # type: ignore[attr-defined]
        assert area.mmap_size >= 16 + 16 * NUM
        assert await front.tell(R.SET_INFLIGHT_FD, area, [fd])
        before = fds(), maps()
        for _ in range(200):
            assert await front.tell(R.SET_INFLIGHT_FD, area, [fd])
            again = await front.ask(R.GET_INFLIGHT_FD, Inflight(0, 0, 1, NUM))
            assert again == area
            front.passed.pop().close()
        assert (fds(), maps()) == before
        for bad in (
            Inflight(area.mmap_size, 0, 0, NUM),
            Inflight(area.mmap_size, 0, 2, NUM),
            Inflight(area.mmap_size, 0, 1, 0),
            Inflight(area.mmap_size, 0, 1, 3),
            Inflight(area.mmap_size, 0, 1, 0xFFFF),
            Inflight(area.mmap_size, 0, 1, 1024),
            Inflight(8, 0, 1, NUM),
            Inflight(area.mmap_size + MIB, 0, 1, NUM),
            Inflight(area.mmap_size, 1 << 40, 1, NUM),
            Inflight((1 << 64) - 1, 0, 1, 32768),
        ):
            assert not await front.tell(R.SET_INFLIGHT_FD, bad, [fd])
        assert (fds(), maps()) == before
        handle.close()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        assert await front.start(front.rings[0])
    await closes(lambda front: front.ask(R.GET_INFLIGHT_FD, Inflight(0, 0, 0xFFFF, 0x8000)))


@pytest.mark.hostile("V12")
async def test_a_message_before_its_time_is_refused() -> None:
    async with bench_() as bench, bench.front() as front:
        assert (await front.ask(R.GET_PROTOCOL_FEATURES)).value == PROTOCOL_FEATURES
        await front.post(R.SET_PROTOCOL_FEATURES, U64(PROTOCOL_FEATURES))
        assert not await front.tell(R.SET_STATUS, U64(11)), "there are no features"
        assert await front.share()
        assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [front.rings[0].kick_fd]), "there are no features"
        assert not await front.tell(R.SET_FEATURES, U64(front.features & ~(1 << 32))), "no VERSION_1"
        assert not await front.tell(R.SET_FEATURES, U64(1 << 63 | front.features)), "not offered"
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [front.rings[0].kick_fd]), "there is no ring"
        assert await front.start(front.rings[0])
        assert not await front.tell(R.SET_PROTOCOL_FEATURES, U64(0))
        assert await front.tell(R.SET_PROTOCOL_FEATURES, U64(PROTOCOL_FEATURES)), "those it has"
        assert not await front.tell(R.SET_FEATURES, U64(1 << 32))
        await front.tell(R.SET_STATUS, U64(15))
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0
