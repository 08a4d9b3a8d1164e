"""The block device against a hostile driver: each bad request has its exact outcome."""

from __future__ import annotations

import os
from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.blk import BlkStatus
from drivers.devices.blk.layout import HEADER, SEGMENT, RequestType
from rings.layout import WRITE
from rings.memory import Addr
from rings.status import Status
from rings.testing import Act, Desc
from support.rigs.blk import TWO
from support.rigs.watched import watched_memory
from vnet.testing.blk import BlkOptions, BlkPair, open_blk_pair
from vnet.testing.checks import bounded, unharmed, until
from vnet.testing.hostile import HostileDriver, hostile_driver

OK, IOERR, UNSUPP = BlkStatus
PENDING = 0xAA
CAPACITY = 8 << 20 >> 9
END = (1 << 64) - 1
IN, OUT, FLUSH, GET_ID, _, DISCARD, ZEROES, _ = RequestType


def header(kind: int, sector: int = 0) -> bytes:
    return HEADER.pack(kind, 0, sector)


def segments(*rows: tuple[int, int, int]) -> bytes:
    return b"".join(SEGMENT.pack(*row) for row in rows)


@attrs.frozen
class Sent:
    """A request, and where its answer comes to."""

    driver: HostileDriver[BlkPair]
    status: Addr
    data: Addr
    size: int

    @property
    def answer(self) -> int:
        return self.driver.get(self.status, 1)[0]

    @property
    def read(self) -> bytes:
        return self.driver.get(self.data, self.size)


def send(
    driver: HostileDriver[BlkPair],
    read: Sequence[bytes],
    write: int = 0,
    *,
    head: int = 0,
    queue: int = 0,
    status: bool = True,
) -> Sent:
    """A chain of these readable parts, ``write`` bytes of data, and the status."""
    descs = [Desc(driver.put(part), len(part)) for part in read]
    data, answer = driver.put(bytes([PENDING]) * max(1, write)), driver.put(bytes([PENDING]))
    if write:
        descs.append(Desc(data, write, WRITE))
    if status:
        descs.append(Desc(answer, 1, WRITE))
    driver.send(*descs, head=head, queue=queue)
    return Sent(driver, answer, data, write)


async def answered(sent: Sent) -> int:
    with bounded():
        while sent.answer == PENDING:  # noqa: ASYNC110  the ring is not ours to wait for
            await trio.sleep(0.001)
    return sent.answer


async def works(driver: HostileDriver[BlkPair], queue: int = 0) -> None:
    sent = send(driver, [header(IN, 7)], 512, head=8, queue=queue)
    assert await answered(sent) == OK
    assert sent.read == bytes(driver.pair.store.data[7 * 512 : 8 * 512])


def fill(pair: BlkPair) -> bytes:
    pair.store.data[:] = os.urandom(len(pair.store.data))
    return bytes(pair.store.data)


BAD_REQUESTS = [
    pytest.param([header(IN, CAPACITY)], 512, IOERR, id="one sector beyond", marks=pytest.mark.hostile("B01")),
    pytest.param([header(IN, END)], 512, IOERR, id="the last sector there can be", marks=pytest.mark.hostile("B01")),
    pytest.param([header(IN, 1 << 55)], 512, IOERR, id="wraps in bytes", marks=pytest.mark.hostile("B01")),
    pytest.param(
        [header(OUT, CAPACITY - 1), bytes(1024)], 0, IOERR, id="half beyond", marks=pytest.mark.hostile("B01")
    ),
    pytest.param([header(OUT, END), bytes(512)], 0, IOERR, id="write that wraps", marks=pytest.mark.hostile("B01")),
    pytest.param([header(IN)], 100, IOERR, id="no whole sectors", marks=pytest.mark.hostile("B02")),
    pytest.param([header(OUT), bytes(513)], 0, IOERR, id="one byte too many", marks=pytest.mark.hostile("B02")),
    pytest.param([header(IN)[:15]], 512, IOERR, id="short header", marks=pytest.mark.hostile("B02")),
    pytest.param([], 512, IOERR, id="no header", marks=pytest.mark.hostile("B02")),
    pytest.param([header(17)], 512, UNSUPP, id="no such type", marks=pytest.mark.hostile("B03")),
    pytest.param([header(0x8000_0000)], 0, UNSUPP, id="barrier", marks=pytest.mark.hostile("B03")),
    pytest.param([header(ZEROES), segments((END, 2, 0))], 0, IOERR, id="wraps", marks=pytest.mark.hostile("B04")),
    pytest.param([header(DISCARD), segments((0, END >> 32, 0))], 0, IOERR, id="all", marks=pytest.mark.hostile("B04")),
    pytest.param([header(DISCARD), segments(*[(0, 1, 0)] * 17)], 0, IOERR, id="many", marks=pytest.mark.hostile("B04")),
    pytest.param([header(DISCARD), segments((0, 1, 1))], 0, UNSUPP, id="unmap", marks=pytest.mark.hostile("B04")),
    pytest.param([header(ZEROES), segments((0, 1, 6))], 0, UNSUPP, id="flags", marks=pytest.mark.hostile("B04")),
    pytest.param([header(ZEROES), bytes(15)], 0, IOERR, id="part of a segment", marks=pytest.mark.hostile("B04")),
]


@pytest.mark.parametrize(("read", "write", "outcome"), BAD_REQUESTS)
async def test_a_bad_request_is_answered_with_its_error_and_touches_nothing(
    read: list[bytes], write: int, outcome: BlkStatus
) -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair):
        media = fill(pair)
        async with hostile_driver(pair) as driver:
            await driver.start()
            sent = send(driver, read, write)
            assert await answered(sent) == outcome
            assert pair.store.data == media
            assert sent.read == bytes([PENDING]) * write
            assert driver.rings[0].elem(0) == (0, 0)
            assert sum(pair.plug.figures[0].errors.values()) == 1
            assert not pair.vhost.status & Status.NEEDS_RESET
            await works(driver)
        pair.store.data[:] = bytes(len(pair.store.data))


@pytest.mark.hostile("B03")
@pytest.mark.virtio("BLK-DEV-18", "BLK-DEV-19")
@pytest.mark.parametrize("read", [[header(OUT), b"w" * 512], [header(DISCARD), segments((0, 1, 0))]])
async def test_a_read_only_device_changes_nothing(read: list[bytes]) -> None:
    async with open_blk_pair(attrs.evolve(TWO, read_only=True)) as pair, unharmed(pair):
        media = fill(pair)
        async with hostile_driver(pair) as driver:
            await driver.start()
            sent = send(driver, read)
            assert await answered(sent) == (IOERR if read[0] == header(OUT) else UNSUPP)
            assert pair.store.data == media
            await works(driver)


@pytest.mark.hostile("B02", "R14")
@pytest.mark.parametrize("read", [[header(IN)], [header(OUT), bytes(512)], [b"x"]])
async def test_without_a_byte_for_the_status_the_queue_is_latched_and_the_other_goes_on(read: list[bytes]) -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        send(driver, read, status=False)
        await until(lambda: bool(pair.vhost.status & Status.NEEDS_RESET))
        assert "no byte for the status" in pair.vhost.failures[-1]
        assert driver.calls == [0]
        kept = send(driver, [header(IN)], 512, head=4)
        await trio.sleep(1)
        assert kept.answer == PENDING
        await works(driver, queue=1)


@pytest.mark.hostile("B02")
async def test_requests_taken_before_the_queue_was_latched_are_still_answered() -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair):
        store = pair.store
        async with hostile_driver(pair) as driver:
            await driver.start()
            store.at_once, store.gate = False, trio.Event()
            first = send(driver, [header(IN)], 512)
            await until(lambda: store.inside == 1)
            send(driver, [header(IN)], status=False, head=4)
            await until(lambda: bool(pair.vhost.status & Status.NEEDS_RESET))
            assert first.answer == PENDING
            store.gate.set()
            assert await answered(first) == OK
            assert driver.rings[0].used_idx == 1
            store.at_once, store.gate = True, None


@pytest.mark.hostile("B05")
async def test_one_buffer_on_two_queues_at_once_gets_both_answers() -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair):
        media = fill(pair)
        pair.store.at_once = False
        async with hostile_driver(pair) as driver:
            await driver.start()
            head, data, status = driver.put(header(IN, 3)), driver.alloc(512), driver.put(b"\xaa")
            for queue in range(2):
                driver.send(Desc(head, 16), Desc(data, 512, WRITE), Desc(status, 1, WRITE), queue=queue)
            await until(lambda: [ring.used_idx for ring in driver.rings] == [1, 1])
            assert driver.get(data, 512) == media[3 * 512 : 4 * 512]
        pair.store.at_once = True


@pytest.mark.hostile("B05", "R07")
async def test_a_head_that_is_made_available_again_while_in_flight_latches_its_queue_only() -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair):
        store = pair.store
        async with hostile_driver(pair) as driver:
            await driver.start()
            store.at_once, store.gate = False, trio.Event()
            send(driver, [header(IN)], 512)
            await until(lambda: store.inside == 1)
            for _ in range(10 * 16):
                driver.rings[0].offer(0)
            driver.kick(0)
            await until(lambda: bool(pair.vhost.status & Status.NEEDS_RESET))
            assert store.inside == 1
            store.gate.set()
            store.at_once = True
            await works(driver, queue=1)
        store.gate = None


@pytest.mark.hostile("B05")
async def test_memory_is_bounded_by_the_workers_for_any_number_of_requests() -> None:
    async with open_blk_pair(BlkOptions(queues=2, queue_size=64, workers=2)) as pair, unharmed(pair):
        store = pair.store
        async with hostile_driver(pair) as driver:
            await driver.start()
            store.at_once, store.gate = False, trio.Event()
            data, status = driver.alloc(4 << 20), driver.put(b"\xaa")
            for queue in range(2):
                for head in range(0, 60, 3):
                    descs = Desc(driver.put(header(OUT)), 16), Desc(data, 4 << 20), Desc(status, 1, WRITE)
                    driver.send(*descs, head=head, queue=queue)
            await trio.testing.wait_all_tasks_blocked()
            assert store.inside == 1
            assert store.log.count("write") == 0
            store.gate.set()
            await until(lambda: [ring.used_idx for ring in driver.rings] == [20, 20], 2_000_000)
        store.at_once, store.gate = True, None


@pytest.mark.hostile("R16", "D10")
@pytest.mark.parametrize("kind", [IN, OUT, ZEROES])
async def test_changes_of_a_request_in_progress_have_no_effect(kind: RequestType) -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair):
        media = fill(pair)
        store = pair.store
        async with hostile_driver(pair) as driver:
            await driver.start()
            store.at_once, store.gate = False, trio.Event()
            first = driver.put(header(kind, 5))
            second = {OUT: driver.put(b"w" * 512), ZEROES: driver.put(segments((5, 1, 0)))}.get(kind)
            data, status = driver.alloc(512), driver.put(bytes([PENDING]))
            descs = [Desc(first, 16), Desc(status, 1, WRITE)]
            if second is not None:
                descs.insert(1, Desc(second, 512 if kind == OUT else 16))
            else:
                descs.insert(1, Desc(data, 512, WRITE))
            driver.send(*descs, queue=0)
            await until(lambda: store.inside == 1)
            driver.memory.view(first, 16, True)[:] = header(OUT, END)
            if second is not None and kind == ZEROES:
                driver.memory.view(second, 16, True)[:] = segments((0, CAPACITY, 1))
            driver.rings[0].write(0, Desc(0, 1 << 31))
            store.gate.set()
            await until(lambda: driver.get(status, 1) == b"\0")
            sector = slice(5 * 512, 6 * 512)
            expected = {OUT: b"w" * 512, ZEROES: bytes(512)}.get(kind, media[sector])
            assert store.data == media[: sector.start] + expected + media[sector.stop :]
            if kind == IN:
                assert driver.get(data, 512) == media[sector]
        store.at_once, store.gate = True, None


@pytest.mark.virtio("BLK-DEV-53")
async def test_the_status_is_written_last() -> None:
    async with open_blk_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        with watched_memory(pair) as actual:
            await driver.start()
            pair.store.at_once = False
            sent = send(driver, [header(IN, 1)], 512)
            seen = []
            read = pair.store.read

            async def look(into: memoryview, offset: int) -> None:
                seen.append(sent.answer)
                await read(into, offset)

            pair.store.read = look  # type: ignore[method-assign]
            assert await answered(sent) == OK
            assert seen == [PENDING]
            assert any(access.act is Act.WRITE for memory in actual for access in memory.log)
        pair.store.at_once = True
        del pair.store.read
