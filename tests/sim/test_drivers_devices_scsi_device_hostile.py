"""The SCSI device against a hostile driver: each bad request has its exact outcome."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from drivers.devices.scsi import Lun, Response, ScsiStatus, Tmf
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.layout import (
    NOTIFICATION,
    RESPONSE,
    ControlType,
)
from drivers.devices.scsi.sense import Asc
from rings.layout import WRITE
from rings.status import Status as DeviceStatus
from rings.testing import Desc
from support.rigs.scsi_hostile import CONTROL, FIRST, SECOND, TWO, answered, begin, head, send, tmf, works
from vnet.testing.checks import unharmed, until
from vnet.testing.hostile import hostile_driver
from vnet.testing.scsi import DISK, ScsiPair, open_scsi_pair

PENDING = 0xAA
SENSE_SIZE = 96
RESPONSE_SIZE = RESPONSE.size + SENSE_SIZE
GOOD = (Response.OK, ScsiStatus.GOOD)
CHECK = (Response.OK, ScsiStatus.CHECK_CONDITION)


def fill(pair: ScsiPair) -> bytes:
    pair.store.data[:] = os.urandom(len(pair.store.data))
    return bytes(pair.store.data)


BLOCK_4096 = bytes(7) + b"\x08" + (16384).to_bytes(4, "big") + b"\0\0\x10\0"
SELECT = bytes((Op.MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0, 0, 16, 0))
BAD = [
    pytest.param([head(commands.read(0, 1))[:50]], 512, (Response.FAILURE, 0), id="short CDB"),
    pytest.param([], 512, (Response.FAILURE, 0), id="no request"),
    pytest.param([head(commands.read(0, 1), bytes(8))], 512, (Response.BAD_TARGET, 0), id="no LUN"),
    pytest.param([head(commands.read(0, 1), Lun(9, 0).emit())], 512, (Response.BAD_TARGET, 0), id="no such target"),
    pytest.param([head(commands.read(0, 1), b"\1\0\x80" + bytes(5))], 512, (Response.BAD_TARGET, 0), id="LUN format"),
    pytest.param([head(commands.read(0, 1), b"\xff" * 8)], 512, (Response.BAD_TARGET, 0), id="all ones"),
    pytest.param([head(commands.read(0, 1), Lun(0, 9).emit())], 512, CHECK, id="no such LUN"),
    pytest.param([head(commands.read(16384, 1))], 512, CHECK, id="beyond the end"),
    pytest.param([head(commands.read((1 << 64) - 1, 0xFFFF_FFFF))], 512, CHECK, id="wraps"),
    pytest.param([head(bytes([0x7F, 0, 0, 0, 0, 0, 0, 255]))], 512, CHECK, id="variable length"),
    pytest.param([head(commands.read(0, 2))], 1023, (Response.OVERRUN, 0), id="room for less"),
    pytest.param([head(commands.read(0, 1)), bytes(512)], 0, (Response.OVERRUN, 0), id="the other direction"),
    pytest.param([head(commands.write(0, 2)), bytes(1023)], 0, (Response.OVERRUN, 0), id="less data"),
    pytest.param([head(commands.write(0, 1))], 512, (Response.OVERRUN, 0), id="room instead of data"),
]


@pytest.mark.hostile("K01", "K02")
@pytest.mark.virtio("SCSI-DEV-10", "SCSI-DEV-12", "SCSI-DEV-18")
@pytest.mark.parametrize(("read", "write", "outcome"), BAD)
async def test_a_bad_request_is_answered_with_its_response_and_touches_nothing(
    read: list[bytes], write: int, outcome: tuple[int, int]
) -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair):
        media = fill(pair)
        async with hostile_driver(pair) as driver:
            await begin(driver)
            sent = send(driver, read, write)
            assert await answered(sent) == outcome
            whole = outcome[0] != Response.FAILURE
            assert sent.residual == (sum(map(len, read)) - 51 + write if whole else 0)
            assert pair.store.data == media
            assert sent.data == bytes([PENDING]) * write
            assert driver.rings[FIRST].elem(2) == (0, RESPONSE_SIZE)
            assert not pair.vhost.status & DeviceStatus.NEEDS_RESET
            await works(driver)


@pytest.mark.hostile("K02")
async def test_the_block_size_stays_what_it_is_and_so_does_the_memory_behind_write_same() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair):
        media = fill(pair)
        async with hostile_driver(pair) as driver:
            await begin(driver)
            changed = send(driver, [head(SELECT), BLOCK_4096])
            assert await answered(changed) == CHECK
            assert changed.asc == Asc.INVALID_FIELD_IN_PARAMETER_LIST
            for cdb in (commands.write_same(16383, 2), commands.write_same(0, 0), commands.write_same(0, 1 << 31)):
                assert await answered(send(driver, [head(cdb), b"p" * 512])) == CHECK
            assert await answered(send(driver, [head(commands.write_same(0, 1)), b"p" * 511])) == (Response.OVERRUN, 0)
            assert pair.store.data == media
            assert await answered(send(driver, [head(commands.write_same(16383, 1)), b"p" * 4096])) == GOOD
            assert pair.store.data == media[:-512] + b"p" * 512
            await works(driver)


@pytest.mark.hostile("K01")
async def test_a_buffer_that_is_larger_than_what_comes_has_a_residual_and_keeps_the_rest() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair):
        media = fill(pair)
        async with hostile_driver(pair) as driver:
            await begin(driver)
            sent = send(driver, [head(commands.read(3, 1))], 1000)
            assert await answered(sent) == GOOD
            assert (sent.residual, sent.data) == (488, media[3 * 512 : 4 * 512] + bytes([PENDING]) * 488)
            assert driver.rings[FIRST].elem(2) == (0, RESPONSE_SIZE + 512)
            sent = send(driver, [head(commands.unit_ready())], 1000)
            assert await answered(sent) == GOOD
            assert (sent.residual, sent.data) == (1000, bytes([PENDING]) * 1000)


@pytest.mark.hostile("K01", "R14")
@pytest.mark.parametrize("response", [0, 11])
async def test_without_room_for_a_response_the_queue_is_latched_and_the_other_goes_on(response: int) -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        send(driver, [head(commands.read(0, 1))], response=response)
        await until(lambda: bool(pair.vhost.status & DeviceStatus.NEEDS_RESET))
        assert "no room for a response" in pair.vhost.failures[-1]
        await works(driver, SECOND)
        ended = send(driver, [tmf(Tmf.LOGICAL_UNIT_RESET)], queue=CONTROL, response=1)
        await until(lambda: not ended.pending)


@pytest.mark.hostile("K03", "R14")
@pytest.mark.parametrize(
    ("read", "response", "answer"),
    [
        pytest.param(b"", 1, Response.FAILURE, id="nothing"),
        pytest.param(tmf(0)[:23], 1, Response.FAILURE, id="short"),
        pytest.param(b"\3" + bytes(23), 1, Response.FAILURE, id="no such type"),
        pytest.param(tmf(8), 1, Response.FUNCTION_REJECTED, id="no such function"),
        pytest.param(tmf(0, b"\xff" * 8), 1, Response.BAD_TARGET, id="no LUN"),
        pytest.param(NOTIFICATION.pack(ControlType.AN_QUERY, DISK.emit(), 126), 1, Response.FAILURE, id="no room"),
    ],
)
async def test_a_bad_question_is_answered_and_does_nothing(read: bytes, response: int, answer: Response) -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        sent = send(driver, [read] if read else [], queue=CONTROL, response=response)
        await until(lambda: not sent.pending)
        assert driver.get(sent.at, 1)[0] == answer
        assert not pair.vhost.status & DeviceStatus.NEEDS_RESET
        await works(driver)
        send(driver, [tmf(0)], queue=CONTROL, response=0, slot=4)
        await until(lambda: bool(pair.vhost.status & DeviceStatus.NEEDS_RESET))
        assert "no byte for the response" in pair.vhost.failures[-1]
        await works(driver)


# What changes while it is looked at


@pytest.mark.hostile("R16", "D10")
@pytest.mark.parametrize(
    ("cdb", "out", "write", "expected"),
    [
        pytest.param(commands.read(5, 1), b"", 512, None, id="READ"),
        pytest.param(commands.write_same(5, 1), b"w" * 512, 0, b"w" * 512, id="WRITE SAME"),
        pytest.param(commands.unmap((5, 1))[0], commands.unmap((5, 1))[1], 0, bytes(512), id="UNMAP"),
    ],
)
async def test_changes_of_a_request_in_progress_have_no_effect(
    cdb: bytes, out: bytes, write: int, expected: bytes | None
) -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair):
        media = fill(pair)
        store = pair.store
        async with hostile_driver(pair) as driver:
            await begin(driver)
            store.at_once, store.gate = False, trio.Event()
            request = driver.put(head(cdb))
            payload = driver.put(out or b"\0")
            data, answer = driver.alloc(512), driver.put(bytes([PENDING]) * RESPONSE_SIZE)
            descs = [Desc(request, 51), Desc(payload, len(out)) if out else None, Desc(answer, RESPONSE_SIZE, WRITE)]
            if write:
                descs.append(Desc(data, write, WRITE))
            driver.send(*(desc for desc in descs if desc is not None), queue=FIRST)
            await until(lambda: store.inside == 1)
            driver.memory.view(request, 51, True)[:] = head(commands.write((1 << 64) - 1, 9), b"\xff" * 8)
            driver.memory.view(payload, max(1, len(out)), True)[:] = b"\xee" * max(1, len(out))
            driver.rings[FIRST].write(0, Desc(0, 1 << 31))
            store.gate.set()
            await until(lambda: driver.get(answer, 1)[0] != PENDING)
            assert RESPONSE.unpack(driver.get(answer, RESPONSE.size)) == (0, 0, 0, 0, 0)
            block = slice(5 * 512, 6 * 512)
            assert store.data == media[: block.start] + (expected or media[block]) + media[block.stop :]
            if write:
                assert driver.get(data, 512) == media[block]
        store.at_once, store.gate = True, None


async def test_the_response_is_written_last() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        pair.store.at_once = False
        sent = send(driver, [head(commands.read(1, 1))], 512)
        seen = []
        read = pair.store.read

        async def look(into: memoryview, offset: int) -> None:
            seen.append(sent.pending)
            await read(into, offset)

        pair.store.read = look  # type: ignore[method-assign]
        assert await answered(sent) == GOOD
        assert seen == [True]
        pair.store.at_once = True
        del pair.store.read
