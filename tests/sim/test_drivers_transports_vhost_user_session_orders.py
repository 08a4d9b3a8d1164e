"""The protocol allows a front end any order, any base and any memory; some things it never allows."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from drivers.devices.blk import BlkPlug
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    Inflight,
    MemRegion,
    MemTable,
    Payload,
    SingleRegion,
    VringAddr,
    VringFd,
    VringState,
)
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from support.rigs.vhost_user import MIB, NUM, USER, Bench, FrontEnd, R, begin, finish, open_bench, request
from vnet.testing.blk import StubbornStore

PACKED = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
FRESH = 1 << 15 | 1 << 31
"""Where a packed ring starts, as QEMU says it."""


@asynccontextmanager
async def bench_(packed: bool = False, store: StubbornStore | None = None) -> AsyncIterator[Bench]:
    async with open_bench(BlkPlug(store or StubbornStore(MIB)), packed=packed) as bench:
        yield bench


async def introduce(front: FrontEnd) -> None:
    await front.negotiate()
    assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
    assert await front.share()


async def resume(bench: Bench, front: FrontEnd, base: int) -> None:
    """Come back with a ring that is in use."""
    await bench.reconnect(front)
    await introduce(front)
    assert await front.start(front.rings[0], base)
    assert await front.tell(R.SET_STATUS, U64(15))


# Order


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (R.SET_VRING_ENABLE, VringState(0, 0)),
        (R.SET_VRING_NUM, VringState(0, NUM)),
        (R.SET_VRING_BASE, VringState(0, 0)),
        (R.SET_VRING_CALL, VringFd(0, has_fd=False)),
        (R.SET_VRING_ERR, VringFd(0, has_fd=False)),
        (R.SET_STATUS, U64(0)),
        (R.SET_OWNER, None),
        (R.RESET_OWNER, None),
        (R.RESET_DEVICE, None),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_any_message_that_can_be_carried_out_may_come_before_set_owner(kind: R, payload: Payload | None) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.ask(R.GET_FEATURES)
        await front.post(R.SET_PROTOCOL_FEATURES, U64(PROTOCOL_FEATURES))
        assert await front.tell(kind, payload)


async def test_a_front_end_that_first_stops_what_it_had_and_never_owns_the_device() -> None:
    """As DPDK's virtio-user does it when it comes back."""
    async with bench_() as bench, bench.front() as front:
        await front.ask(R.GET_FEATURES)
        await front.post(R.SET_PROTOCOL_FEATURES, U64(PROTOCOL_FEATURES))
        await front.post(R.SET_VRING_ENABLE, VringState(0, 0))
        assert await front.ask(R.GET_VRING_BASE, VringState(0, 0)) == VringState(0, 0)
        await front.post(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert await front.share()
        assert await front.start(front.rings[0])
        assert await front.tell(R.SET_STATUS, U64(15))
        assert (await request(front, front.rings[0], 1, 0, bytes(512)))[-1] == 0


async def test_addresses_may_be_set_before_there_is_memory() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        ring = front.rings[0]
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        assert await front.tell(R.SET_VRING_ADDR, front.addrs(ring))
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        assert not await front.tell(R.SET_VRING_KICK, VringFd(0), [ring.kick_fd]), "there is no memory"
        assert await front.share()
        assert await front.start(ring)


# Arguments


@pytest.mark.hostile("R23")
@PACKED
@pytest.mark.parametrize("early", [False, True])
async def test_the_size_of_a_ring_is_one_that_its_format_has(packed: bool, early: bool) -> None:
    async with bench_(packed) as bench, bench.front() as front:
        await (front.negotiate() if early else introduce(front))
        for num, good in (
            (0, False),
            (1, True),
            (3, packed),
            (1000, packed),
            (1024, True),
            (1025, False),
            (1 << 31, False),
        ):
            assert await front.tell(R.SET_VRING_NUM, VringState(0, num)) == good, num
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        if early:
            await introduce(front)
        assert await front.start(front.rings[0])


@pytest.mark.hostile("V13")
@PACKED
async def test_areas_outside_of_memory_or_over_each_other_are_refused_when_they_are_set(packed: bool) -> None:
    async with bench_(packed) as bench, bench.front() as front:
        await introduce(front)
        ring = front.rings[0]
        good = front.addrs(ring)
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        for field in ("desc", "used", "avail"):
            for address in (0, 1, USER - 4096, USER + front.region.size, USER + front.region.size - 1, (1 << 64) - 8):
                assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(good, **{field: address})), (field, address)
        assert not await front.tell(R.SET_VRING_ADDR, attrs.evolve(good, used=good.desc)), "over each other"
        assert not await front.tell(R.SET_VRING_ADDR, VringAddr(0, 0, 0, 0, 0))
        assert await front.tell(R.SET_VRING_ADDR, good)
        assert await front.start(ring)
        assert await front.tell(R.SET_STATUS, U64(15))
        assert (await request(front, ring, 1, 0, bytes(512)))[-1] == 0


async def test_configuration_is_written_for_a_reason_that_there_is() -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        now = (await front.ask(R.GET_CONFIG, Config(0, 0, bytes(8)))).data
        for flags, good in ((0, True), (1, True), (2, False), (1 << 31, False)):
            assert await front.tell(R.SET_CONFIG, Config(0, flags, now)) == good


# Places


@PACKED
@pytest.mark.parametrize("what", ["used", "zero", "available", "stale", "first"])
async def test_a_ring_in_use_goes_on_at_its_used_index_with_any_base(packed: bool, what: str) -> None:
    async with bench_(packed) as bench, bench.front() as front:
        await front.bring_up()
        ring = front.rings[0]
        for sector in range(2 * NUM + 3):
            assert (await request(front, ring, 1, sector, bytes(512)))[-1] == 0
        events = (await front.ask(R.GET_VRING_BASE, VringState(0, 0))).num
        assert await front.start(ring, events)
        assert await front.tell(R.SET_STATUS, U64(15))
        bases = {"used": events, "zero": 0, "stale": events - 2, "available": events + 2, "first": ring.form.start}
        for sector in range(2):
            assert (await request(front, ring, 1, sector, bytes(512)))[-1] == 0
        await bench.reconnect(front)
        begin(front, ring, 1, 8, b"a" * 512)
        begin(front, ring, 1, 9, b"b" * 512)
        await resume(bench, front, bases[what] + (2 if what == "used" else 0))
        for _ in range(2):
            assert (await finish(front, ring))[-1] == 0
        assert await request(front, ring, 0, 8, 1024) == b"a" * 512 + b"b" * 512 + b"\0"


# In flight


async def area(front: FrontEnd, queue_size: int) -> tuple[Inflight, int]:
    given = await front.ask(R.GET_INFLIGHT_FD, Inflight(0, 0, 1, queue_size))
    [handle] = front.passed
    return given, handle.take()  # type: ignore[attr-defined]


@pytest.mark.hostile("C01")
@PACKED
@pytest.mark.parametrize("queue_size", [NUM, 16 * NUM])
async def test_requests_that_a_back_end_left_are_done_by_the_next_one_in_their_order(
    packed: bool, queue_size: int
) -> None:
    """The area is as large as the front end's largest ring; the driver's may be smaller (section 4.1.5.1.3)."""
    store = StubbornStore(MIB)
    async with bench_(packed, store) as bench, bench.front() as front:
        await introduce(front)
        given, fd = await area(front, queue_size)
        assert await front.tell(R.SET_INFLIGHT_FD, given, [fd])
        ring = front.rings[0]
        assert await front.start(ring)
        assert await front.tell(R.SET_STATUS, U64(15))
        for sector in range(NUM + 1):
            assert (await request(front, ring, 1, sector, bytes(512)))[-1] == 0
        store.at_once, store.gate = False, trio.Event()
        for value in range(6):
            begin(front, ring, 1, 8, bytes((value,)) * 512)
        while store.inside < 1:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await trio.sleep(0.1)
        front.socket.close()
        await trio.sleep(2)
        store.gate.set()
        store.gate, store.at_once = None, True
        await bench.reconnect(front)
        await introduce(front)
        assert await front.tell(R.SET_INFLIGHT_FD, given, [fd])
        assert await front.start(ring, FRESH if packed else 0)
        assert await front.tell(R.SET_STATUS, U64(15))
        for _ in range(6):
            assert (await finish(front, ring))[-1] == 0
        assert await request(front, ring, 0, 8, 512) == bytes((5,)) * 512 + b"\0", "the last one was done last"
        os.close(fd)


# Memory


@pytest.mark.parametrize(("start", "size"), [(0, 0x3B10), (0x10, 0x3B10), (0x1234, 0x8001), (0xFFF, 0x7001)])
@pytest.mark.parametrize("one_by_one", [False, True])
async def test_a_region_may_have_any_size_and_start_anywhere_in_its_file(
    start: int, size: int, one_by_one: bool
) -> None:
    async with bench_() as bench, bench.front() as front:
        await front.negotiate()
        assert await front.tell(R.SET_FEATURES, U64(front.features | 1 << F_PROTOCOL_FEATURES))
        region = MemRegion(front.memory.base + start, size, USER + start, start)
        if one_by_one:
            assert await front.tell(R.ADD_MEM_REG, SingleRegion(region), [front.memory.fd])
            assert await front.tell(R.REM_MEM_REG, SingleRegion(region))
            assert await front.tell(R.ADD_MEM_REG, SingleRegion(region), [front.memory.fd])
        else:
            assert await front.tell(R.SET_MEM_TABLE, MemTable((region,)), [front.memory.fd])
        ring = front.rings[0]
        inside = all(
            start <= buffer.addr - front.memory.base and buffer.addr + buffer.size <= region.addr + size
            for buffer in ring.buffers
        )
        assert await front.tell(R.SET_VRING_NUM, VringState(0, NUM))
        assert await front.tell(R.SET_VRING_ADDR, front.addrs(ring)) == inside
        # One byte beyond the region is outside memory, even within the same page.
        behind = attrs.evolve(front.addrs(ring), desc=USER + (start + size - 16 * NUM + 16) // 16 * 16)
        assert not await front.tell(R.SET_VRING_ADDR, behind)
