"""How much of the event loop's time one driver gets at once: counted in work, since the clock of these tests jumps."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import trio
from trio.abc import Instrument

from drivers.bus.device_queue import PACE
from drivers.devices.blk.layout import HEADER, BlkConfigField, BlkFeature, BlkStatus, RequestType
from drivers.devices.scsi import Response, ScsiStatus, Tmf
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.layout import HEADER as SCSI_HEADER
from drivers.devices.scsi.layout import RESPONSE
from drivers.storage.job_flow import AT_ONCE, BUDGET, UNIT
from rings.layout import NEXT, WRITE
from rings.memory import Addr
from rings.testing import Desc
from vnet.testing import Pair
from vnet.testing.blk import BlkOptions, StubbornStore, open_blk_pair
from vnet.testing.checks import until
from vnet.testing.hostile import HostileDriver, hostile_driver
from vnet.testing.net import FRAME, Options, open_pair
from vnet.testing.scsi import DISK, ScsiOptions, ScsiPair, open_scsi_pair

MIB = 1 << 20
PENDING = 0xAA
CONTROL, _, FIRST = range(3)


class Turns(Instrument):
    """The most that a figure grew in one step of any task."""

    def __init__(self, figure: Callable[[], int]) -> None:
        self._figure = figure
        self._before = 0
        self.most = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self._figure()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self._figure() - self._before)


@contextmanager
def turns(figure: Callable[[], int]) -> Iterator[Turns]:
    instrument, task = Turns(figure), trio.lowlevel.current_task()
    trio.lowlevel.add_instrument(instrument)
    instrument.before_task_step(task)
    try:
        yield instrument
    finally:
        instrument.after_task_step(task)
        trio.lowlevel.remove_instrument(instrument)


class Moved:
    """Bytes that a store moved."""

    def __init__(self, store: StubbornStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = store.preadv

        def preadv(segs: Sequence[memoryview], offset: int, /) -> int:
            got = real(segs, offset)
            self.bytes += got
            return got

        async def read(into: memoryview, offset: int, /) -> None:
            into[:] = bytes(len(into))
            self.bytes += len(into)

        monkeypatch.setattr(store, "preadv", preadv)
        monkeypatch.setattr(store, "read", read)


def chain(driver: HostileDriver[Pair], descs: Sequence[Desc]) -> Desc:
    """An indirect table of these descriptors, linked in order."""
    last = len(descs) - 1
    rows = [Desc(d.addr, d.size, d.flags | (NEXT if i < last else 0), i + 1) for i, d in enumerate(descs)]
    return driver.rings[0].table(driver.put(bytes(16 * len(rows))), *rows)


@pytest.mark.hostile("R17")
async def test_long_chains_are_taken_a_few_at_a_time() -> None:
    async with open_blk_pair(BlkOptions(queue_size=256)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=1)
        [ring], queue = driver.rings, pair.vhost.queues[0]
        spot, status = driver.put(bytes(64)), driver.put(bytes([PENDING]))
        table = chain(driver, [Desc(spot, 1), *[Desc(spot, 1, WRITE)] * 253, Desc(status, 1, WRITE)])
        for head in range(ring.num):
            ring.chain(head, table)
        with turns(lambda: queue.statistics().chains) as seen:
            for head in range(ring.num):
                ring.offer(head)
            driver.kick(0)
            await until(lambda: ring.used_idx == ring.num)
        assert driver.get(status, 1)[0] == BlkStatus.IOERR
        assert seen.most <= PACE // 255 + 1


@pytest.mark.hostile("R17")
@pytest.mark.parametrize("queue", [0, 1])
async def test_long_chains_of_a_network_driver_are_taken_a_few_at_a_time(queue: int) -> None:
    """Receive buffers and frames, each in 255 pieces."""
    async with open_pair(Options(queue_size=256)) as pair, hostile_driver(pair) as driver:
        await driver.start()
        ring, end = driver.rings[queue], pair.vhost.queues[queue]
        spot = driver.put(bytes(64))
        table = chain(driver, [Desc(spot, 1, 0 if queue else WRITE)] * 255)
        for head in range(ring.num):
            ring.chain(head, table)
        with turns(lambda: end.statistics().chains) as seen:
            for head in range(ring.num):
                ring.offer(head)
            driver.kick(queue)
            if queue:
                await until(lambda: ring.used_idx == ring.num)
            else:
                pair.device_port.inject(FRAME)
                await until(lambda: ring.used_idx >= 1)
        assert 0 < seen.most <= PACE // 255 + 1


@pytest.mark.hostile("B05")
async def test_requests_are_taken_a_few_hundred_at_a_time() -> None:
    async with open_blk_pair(BlkOptions(queue_size=1024)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=1)
        [ring], queue = driver.rings, pair.vhost.queues[0]
        header = driver.put(HEADER.pack(RequestType.GET_ID, 0, 0))
        table = chain(driver, [Desc(header, 16), *[Desc(driver.put(bytes(4)), 4, WRITE)] * 5, Desc(header, 1, WRITE)])
        for head in range(ring.num):
            ring.chain(head, table)
        with turns(lambda: queue.statistics().chains) as seen:
            for head in range(ring.num):
                ring.offer(head)
            driver.kick(0)
            await until(lambda: ring.used_idx == ring.num)
        assert seen.most <= PACE // 7 + 1


@pytest.mark.hostile("B05")
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_large_read_is_done_piece_by_piece(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_blk_pair(BlkOptions(queue_size=64, size=64)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=1)
        [ring] = driver.rings
        pair.store.at_once = at_once
        data, status = driver.put(bytes(4 * MIB)), driver.put(bytes([PENDING]))
        header = driver.put(HEADER.pack(RequestType.IN, 0, 0))
        ring.chain(0, chain(driver, [Desc(header, 16), *[Desc(data, 4 * MIB, WRITE)] * 15, Desc(status, 1, WRITE)]))
        moved = Moved(pair.store, monkeypatch)
        with turns(lambda: moved.bytes) as seen:
            ring.offer(0)
            driver.kick(0)
            await until(lambda: driver.get(status, 1)[0] != PENDING)
        assert driver.get(status, 1)[0] == BlkStatus.OK
        assert moved.bytes == 60 * MIB
        assert seen.most <= AT_ONCE


@pytest.mark.hostile("B02")
@pytest.mark.parametrize("kind", [RequestType.IN, RequestType.OUT, RequestType.GET_ID])
async def test_a_request_of_more_than_size_max_times_seg_max_is_refused(kind: RequestType) -> None:
    async with open_blk_pair(BlkOptions(queue_size=256, size=1)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=1)
        [ring] = driver.rings
        size_max, seg_max = (driver.config(*field.value) for field in (BlkConfigField.SIZE_MAX, BlkConfigField.SEG_MAX))
        assert pair.vhost.features >> BlkFeature.SIZE_MAX & 1
        pair.store.info = type(pair.store.info)(1 << 40)
        pair.plug.resized()
        data, status = driver.put(bytes(8 * MIB)), driver.put(bytes([PENDING]))
        writes = 0 if kind is RequestType.OUT else WRITE
        header = driver.put(HEADER.pack(kind, 0, 0))
        parts = [Desc(data, 8 * MIB, writes)] * (size_max * seg_max // (8 * MIB))
        descs = [Desc(header, 16), *parts, Desc(data, 512, writes), Desc(status, 1, WRITE)]
        ring.chain(0, chain(driver, descs))
        ring.offer(0)
        driver.kick(0)
        await until(lambda: driver.get(status, 1)[0] != PENDING)
        assert driver.get(status, 1)[0] == BlkStatus.IOERR
        assert pair.plug.figures[0].errors["too_long"] == 1


async def test_requests_that_a_store_never_waits_for_do_not_keep_others_from_their_turn() -> None:
    async with open_blk_pair(BlkOptions(queue_size=256)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=1)
        [ring], queue = driver.rings, pair.vhost.queues[0]
        table = chain(
            driver, [Desc(driver.put(HEADER.pack(RequestType.FLUSH, 0, 0)), 16), Desc(driver.put(b"x"), 1, WRITE)]
        )
        for head in range(ring.num):
            ring.chain(head, table)
        with turns(lambda: queue.statistics().returned) as seen:
            for head in range(ring.num):
                ring.offer(head)
            driver.kick(0)
            await until(lambda: ring.used_idx == ring.num)
        assert seen.most <= BUDGET


# Task management functions


def scsi(driver: HostileDriver[Pair], slot: int, cdb: bytes, size: int, data: Addr, tag: int) -> Addr:
    """Make a command available that reads ``size`` bytes to ``data``; where its answer comes to."""
    request = driver.put(SCSI_HEADER.pack(DISK.emit(), tag, 0, 0, 0) + cdb.ljust(32, b"\0"))
    answer = driver.put(bytes([PENDING]) * (RESPONSE.size + 96))
    descs = [Desc(request, SCSI_HEADER.size + 32), Desc(answer, RESPONSE.size + 96, WRITE)]
    ring = driver.rings[FIRST]
    ring.chain(slot, chain(driver, [*descs, Desc(data, size, WRITE)] if size else descs))
    ring.offer(slot)
    return answer


def writing(driver: HostileDriver[Pair], slot: int, data: Addr, tag: int) -> Addr:
    """The same of a write of one block."""
    request = driver.put(SCSI_HEADER.pack(DISK.emit(), tag, 0, 0, 0) + commands.write(slot, 1).ljust(32, b"\0"))
    answer = driver.put(bytes([PENDING]) * (RESPONSE.size + 96))
    ring = driver.rings[FIRST]
    descs = [Desc(request, SCSI_HEADER.size + 32), Desc(data, 512), Desc(answer, RESPONSE.size + 96, WRITE)]
    ring.chain(slot, chain(driver, descs))
    ring.offer(slot)
    return answer


def manage(driver: HostileDriver[Pair], slot: int, function: Tmf, tag: int = 0) -> Addr:
    """Make a task management function available; where its response comes to."""
    request = driver.put(struct.pack("<II8sQ", 0, function, DISK.emit(), tag))
    response = driver.put(bytes([PENDING]))
    driver.rings[CONTROL].chain(slot, Desc(request, 24), Desc(response, 1, WRITE))
    driver.rings[CONTROL].offer(slot)
    driver.kick(CONTROL)
    return response


def got(driver: HostileDriver[Pair], at: Addr, offset: int = 0) -> bool:
    return driver.get(Addr(at + offset), 1)[0] != PENDING


def status_of(driver: HostileDriver[Pair], at: Addr) -> tuple[int, int]:
    _, _, _, status, response = RESPONSE.unpack(driver.get(at, RESPONSE.size))
    return response, status


async def attended(pair: ScsiPair, driver: HostileDriver[Pair]) -> None:
    """The unit has told of its power-on."""
    answer = scsi(driver, 0, commands.unit_ready(), 0, Addr(0), 1)
    driver.kick(FIRST)
    await until(lambda: got(driver, answer))


async def test_reads_in_front_of_a_function_are_taken_in_turns_and_all_of_them_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=64)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=3)
        await attended(pair, driver)
        store = pair.store
        data, moved = driver.put(bytes(2 * MIB)), Moved(store, monkeypatch)
        with turns(lambda: moved.bytes) as seen:
            answers = [scsi(driver, i, commands.read(0, 4096), 2 * MIB, data, i) for i in range(60)]
            response = manage(driver, 0, Tmf.QUERY_TASK_SET)
            await until(lambda: got(driver, response))
        assert all(status_of(driver, at) == (Response.OK, ScsiStatus.GOOD) for at in answers)
        assert driver.get(response, 1)[0] == Response.OK
        assert seen.most <= PACE * UNIT + AT_ONCE


async def test_a_command_that_was_taken_for_a_function_is_answered_before_that_has_ended() -> None:
    async with open_scsi_pair() as pair, hostile_driver(pair) as driver:
        await driver.start(queues=3)
        await attended(pair, driver)
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        write = writing(driver, 1, driver.put(bytes(512)), 7)
        driver.kick(FIRST)
        await until(lambda: store.inside == 1)
        before = len(driver.calls)
        driver.rings[FIRST].used_event = 1  # call for the next one
        inquiry = scsi(driver, 2, commands.inquiry(96), 96, driver.put(bytes(96)), 8)  # and no kick
        response = manage(driver, 0, Tmf.ABORT_TASK, 7)
        await until(lambda: driver.rings[FIRST].used_idx == 2)
        assert status_of(driver, inquiry) == (Response.OK, ScsiStatus.GOOD)
        assert len(driver.calls) > before, "the driver is told"
        assert not got(driver, response), "the write is still under way"
        store.gate.set()
        await until(lambda: got(driver, response))
        assert status_of(driver, write)[0] == Response.ABORTED
        assert driver.get(response, 1)[0] == Response.OK


async def test_many_tasks_that_no_worker_began_are_answered_while_the_function_waits_for_one_that_did() -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=256)) as pair, hostile_driver(pair) as driver:
        await driver.start(queues=3)
        await attended(pair, driver)
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        data = driver.put(bytes(512))
        first = writing(driver, 0, data, 0)
        driver.kick(FIRST)
        await until(lambda: store.inside == 1)
        answers = [writing(driver, i, data, i) for i in range(1, 200)]
        driver.kick(FIRST)
        response = manage(driver, 0, Tmf.ABORT_TASK_SET)
        await until(lambda: all(got(driver, at) for at in answers))
        assert {status_of(driver, at)[0] for at in answers} == {Response.ABORTED}
        assert not got(driver, first)
        assert not got(driver, response)
        store.gate.set()
        await until(lambda: got(driver, response))
        assert status_of(driver, first)[0] == Response.ABORTED
