"""What a vhost-user front end may do to a back end: each row of the list with its outcome, and nothing left behind."""

from __future__ import annotations

import os
import socket as socket_module
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.devices.blk import BlkPlug
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeature
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, emit
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    Empty,
    Inflight,
    Log,
    MemRegion,
    MemTable,
    Payload,
    ProtocolError,
    SingleRegion,
    VringAddr,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES, Session
from rings.features import mask
from support.rigs.vhost_user import MIB, NUM, USER, Bench, FrontEnd, HungUp, R, begin, finish, open_bench, request
from vnet.testing import fds, maps
from vnet.testing.blk import StubbornStore

SIZE = MIB


@asynccontextmanager
async def bench_() -> AsyncIterator[Bench]:
    async with open_bench(BlkPlug(StubbornStore(SIZE))) as bench:
        yield bench


async def works(bench: Bench) -> None:
    """The next front end finds everything as it should be (U6)."""
    async with bench.front() as front:
        await front.bring_up()
        data = os.urandom(64 << 10)
        assert (await request(front, front.rings[0], 1, 8, data))[-1] == 0
        assert await request(front, front.rings[0], 0, 8, len(data)) == data + b"\0"


async def closes(send: Callable[[FrontEnd], Awaitable[object]], *, up: bool = False) -> None:
    """The exact outcome CLOSE: the connection ends with one typed error, everything is freed, the next may come."""
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
        await works(bench)


def header(request_: int, flags: int, size: int) -> bytes:
    return struct.pack("<III", request_, flags, size)


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
async def test_what_is_unknown_is_refused_and_without_acknowledgements_closes(request_: int, flags: int) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        await front.send(header(request_, flags | 8, 0))
        body, _ = await front.socket.receive(20)
        assert body == header(request_, 5, 8) + bytes((1, *bytes(7)))
        assert await front.share()
    await closes(lambda front: front.send(header(request_, flags, 0)))


@pytest.mark.hostile("V04")
@pytest.mark.parametrize("count", [1, 2, 8, 9, 253])
async def test_file_descriptors_that_nobody_asked_for(count: int) -> None:
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
async def test_only_memory_that_nobody_can_cut_off_is_taken(allowed: bool) -> None:
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
async def test_what_may_not_be_said_yet_is_refused() -> None:
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


def _made(front: FrontEnd, request_: R, variant: int) -> tuple[Payload | None, list[int]]:
    """A body for any message, often a good one, and its file descriptors."""
    [ring] = front.rings
    index, odd = (0, 0, 0, 1)[variant % 4], variant % 2
    bodies: dict[R, tuple[Payload, list[int]]] = {
        R.SET_FEATURES: (U64(front.features | (1 << F_PROTOCOL_FEATURES) * odd | (variant >> 1) << F_LOG_ALL), []),
        R.SET_LOG_BASE: (Log(front.region.size >> odd, 0), [front.memory.fd]),
        R.SET_LOG_FD: (Empty(), [ring.err_fd]),
        R.SEND_RARP: (U64(2), []),
        R.SET_PROTOCOL_FEATURES: (U64(PROTOCOL_FEATURES), []),
        R.SET_MEM_TABLE: (MemTable((front.region,)), [front.memory.fd]),
        R.ADD_MEM_REG: (SingleRegion(front.region), [front.memory.fd]),
        R.REM_MEM_REG: (SingleRegion(front.region), []),
        R.SET_VRING_NUM: (VringState(index, NUM << odd), []),
        R.SET_VRING_BASE: (VringState(index, odd), []),
        R.SET_VRING_ENABLE: (VringState(index, odd), []),
        R.GET_VRING_BASE: (VringState(index, 0), []),
        R.SET_VRING_ADDR: (attrs.evolve(front.addrs(ring, log=variant > 1), index=index), []),
        R.SET_VRING_KICK: (VringFd(index, has_fd=not odd), [ring.kick_fd][odd:]),
        R.SET_VRING_CALL: (VringFd(index, has_fd=not odd), [ring.call_fd][odd:]),
        R.SET_VRING_ERR: (VringFd(index, has_fd=not odd), [ring.err_fd][odd:]),
        R.SET_BACKEND_REQ_FD: (Empty(), [front.memory.fd]),
        R.GET_CONFIG: (Config(0, 0, bytes(60)), []),
        R.SET_CONFIG: (Config(32, 0, bytes((odd,))), []),
        R.GET_INFLIGHT_FD: (Inflight(0, 0, 1, NUM), []),
        R.SET_INFLIGHT_FD: (Inflight(4096, 0, 1, NUM), [front.memory.fd]),
        R.SET_STATUS: (U64((0, 1, 11, 15)[variant % 4]), []),
    }
    return bodies.get(request_, (None, []))


async def _say(acts: list[tuple[R, int]]) -> None:
    async with bench_() as bench:
        async with bench.front() as front:
            await front.negotiate()
            try:
                for request_, variant in acts:
                    payload, descriptors = _made(front, request_, variant)
                    asks = FRONTEND_MESSAGES[request_].answer is None
                    await front.send(emit(request_, payload, need_reply=asks), descriptors)
                    with trio.fail_after(60):
                        await front.answer(request_)
                    while front.passed:
                        front.passed.pop().close()
            except (HungUp, TransportLost):
                pass
        await works(bench)


@pytest.mark.hostile("V12")
@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(sorted(Session._HANDLERS)), st.integers(0, 3)), max_size=40))
def test_any_messages_in_any_order_are_answered_or_end_the_connection(acts: list[tuple[R, int]]) -> None:
    trio.run(_say, acts, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.hostile("V13")
async def test_a_ring_that_runs_is_not_moved() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        before = fds(), maps()
        for _ in range(50):
            assert not await front.tell(R.SET_VRING_NUM, VringState(0, 4))
            assert not await front.tell(R.SET_VRING_BASE, VringState(0, 1))
            assert await front.tell(R.SET_VRING_ADDR, front.addrs(ring))
            assert not await front.tell(R.SET_VRING_ADDR, VringAddr(0, 0, USER, USER, USER))
            assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(front.addrs(ring), flags=2))
            assert await front.tell(R.SET_VRING_KICK, VringFd(0), [ring.kick_fd])
            assert await front.tell(R.SET_VRING_CALL, VringFd(0), [ring.call_fd])
        assert (fds(), maps()) == before
        assert (await request(front, ring, 1, 0, bytes(512)))[-1] == 0


@pytest.mark.hostile("V13")
@pytest.mark.parametrize("base", [0x10000, 0xFFFFFFFF])
async def test_a_ring_that_starts_where_it_can_not(base: int) -> None:
    """Bits 16 to 31 are reserved. Any index is taken, since the ring's own used index decides."""
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        assert not await front.tell(R.SET_VRING_BASE, VringState(0, base))
        assert await front.start(front.rings[0], 0)


@pytest.mark.hostile("V13")
@pytest.mark.parametrize("shift", [1, 1 << 20, 1 << 40])
async def test_a_ring_that_is_nowhere(shift: int) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        addrs = front.addrs(front.rings[0])
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        for bad in (
            VringAddr(0, 0, addrs.desc + shift, addrs.used, addrs.avail),
            VringAddr(0, 0, addrs.desc, addrs.used + shift, addrs.avail),
            VringAddr(0, 0, addrs.desc, addrs.used, addrs.avail + shift),
        ):
            assert not await front.tell(R.SET_VRING_ADDR, bad)
            assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [front.rings[0].kick_fd])
        assert await front.start(front.rings[0])


@pytest.mark.hostile("V14")
async def test_configuration_beyond_its_end() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert len((await front.ask(R.GET_CONFIG, Config(0, 0, bytes(60)))).data) == 60
        for offset, size in ((250, 7), (257, 1), (0xFFFFFFFF, 1), (0xFFFFFF00, 256)):
            assert (await front.ask(R.GET_CONFIG, Config(offset, 0, bytes(size)))).data == b"", (
                "an error, as it is said"
            )
            assert not await front.tell(R.SET_CONFIG, Config(offset, 0, bytes(size)))
        assert not await front.tell(R.SET_CONFIG, Config(0, 0, b"\xff")), "the capacity is not the driver's to write"
        await front.send(header(R.SET_CONFIG, 9, 14) + struct.pack("<III", 0, 9, 0) + b"\0\0")
        assert await front.answer(R.SET_CONFIG) == U64(1)


@pytest.mark.hostile("V15")
@pytest.mark.parametrize("size", [0, 1, 11, 12, 19])
async def test_a_front_end_that_stops_in_the_middle_of_a_message_or_says_nothing(size: int) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.send(emit(R.SET_FEATURES, U64(0))[:size])
        with trio.fail_after(10):
            assert await front.hung_up()
        await works(bench)


@pytest.mark.hostile("V15")
async def test_a_front_end_that_hears_no_answers() -> None:
    async with bench_() as bench:
        async with bench.front() as front:
            with trio.fail_after(60):
                try:
                    while True:
                        await front.post(R.GET_FEATURES)
                except TransportLost:
                    pass
        await works(bench)


@pytest.mark.hostile("V16")
@pytest.mark.hostile("C03")
async def test_a_front_end_that_goes_while_requests_are_under_way() -> None:
    async with bench_() as bench:
        store = bench.plug.store
        assert isinstance(store, StubbornStore)
        async with bench.front() as front:
            await front.bring_up()
            store.at_once, store.gate = False, trio.Event()
            for sector in range(2):
                begin(front, front.rings[0], 1, sector, bytes(512))
            while store.inside < 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
            front.socket.close()
            await trio.sleep(1)
            assert bench.back.connected, "what was begun ends before its memory goes"
            store.gate.set()
            await bench.idle()
        store.at_once, store.gate = True, None
        await works(bench)


@pytest.mark.hostile("V16")
@pytest.mark.parametrize("after", range(14))
async def test_a_front_end_that_goes_after_any_message(after: int) -> None:
    async with bench_() as bench:
        async with bench.front() as front:
            sent = 0
            real = front.send

            async def send(data: bytes, descriptors: object = ()) -> None:
                nonlocal sent
                if sent == after:
                    front.socket.close()
                    raise HungUp
                sent += 1
                await real(data, descriptors)  # type: ignore[arg-type]

            front.send = send  # type: ignore[method-assign,assignment]
            with pytest.raises(HungUp):
                await front.bring_up()
        await works(bench)


@pytest.mark.hostile("V17")
async def test_a_second_front_end_is_refused_and_the_first_goes_on() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        for _ in range(100):
            async with bench.another() as other:
                with trio.fail_after(1):
                    assert await other.hung_up()
        assert bench.back.statistics.refused == 100
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0


@pytest.mark.hostile("V18")
async def test_a_kick_that_never_comes_and_one_that_never_ends() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        [ring] = front.rings
        os.eventfd_write(ring.kick_fd, 1 << 60)  # nobody ever reads it
        begin(front, ring, 1, 0, bytes(512))  # before the ring is started: nobody will kick for it again
        assert await front.start(ring)
        assert await front.tell(R.SET_STATUS, U64(15))
        assert (await finish(front, ring))[-1] == 0
        with trio.fail_after(1):  # there is no busy loop: the clock only goes on when everybody waits
            await trio.sleep(0.5)
        ring.called()
        os.eventfd_write(ring.call_fd, 0xFFFFFFFFFFFFFFFE)  # full: to tell must not wait
        begin(front, ring, 0, 0, 512)
        assert (await finish(front, ring))[-1] == 0


@pytest.mark.hostile("V18")
async def test_a_front_end_that_does_not_kick_at_all() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        assert await front.tell(R.SET_VRING_KICK, VringFd(0, has_fd=False))
        begin(front, ring, 1, 0, bytes(512), kick=False)
        assert (await finish(front, ring))[-1] == 0


async def test_a_broken_ring_is_said_on_its_error_event_and_in_the_status() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.bring_up()
        [ring] = front.rings
        front.memory.view(ring.addrs.driver, 4, True)[2:] = b"\xff\xff"
        ring.kick()
        with trio.fail_after(1):
            while not (await front.ask(R.GET_STATUS)).value & 64:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert os.eventfd_read(ring.err_fd)
        await front.ask(R.GET_VRING_BASE, VringState(0, 0))
        assert await front.tell(R.SET_STATUS, U64(0))
        ring.queue = ring.driver()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.start(ring)
        assert await front.tell(R.SET_STATUS, U64(15))
        assert (await request(front, ring, 1, 0, bytes(512)))[-1] == 0, "a reset recovers"


def test_only_what_is_complete_is_offered() -> None:
    F = ProtocolFeature  # noqa: N806
    never = mask((F.PAGEFAULT, F.INBAND_NOTIFICATIONS, F.HOST_NOTIFIER, F.CRYPTO_SESSION, F.XEN_MMAP))
    assert not PROTOCOL_FEATURES & never
    assert {kind.needs for kind in FRONTEND_MESSAGES.values()} >= {F.MQ, F.CONFIG, F.STATUS}
