"""Hostile ends of a SCSI host: requests, rings and answers of either side, each with its exact outcome."""

from __future__ import annotations

import os
from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.scsi import Key, Lun, Response, ScsiError, ScsiEvent, Status, Tmf
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.layout import (
    EVENT,
    EVENTS_MISSED,
    HEADER,
    NOTIFICATION,
    RESPONSE,
    SUPPORTED,
    ControlType,
    ScsiConfigField,
    ScsiFeature,
)
from drivers.devices.scsi.sense import Asc
from drivers.testing import WrappedOps
from rings.features import RingFeature
from rings.layout import WRITE
from rings.memory import Addr
from rings.status import Status as DeviceStatus
from rings.testing import Act, Desc, Watched
from vnet.testing.checks import bounded, unharmed, until
from vnet.testing.hostile import HostileDevice, HostileDriver, hostile_device, hostile_driver
from vnet.testing.scsi import DISK, ScsiOptions, ScsiPair, new_unit, open_scsi_pair

TWO = ScsiOptions(queues=2, queue_size=16, luns=(Lun(0, 0), Lun(0, 1)))
CONTROL, EVENTS, FIRST, SECOND = range(4)
PENDING = 0xAA
SENSE_SIZE = 96
RESPONSE_SIZE = RESPONSE.size + SENSE_SIZE
GOOD = (Response.OK, Status.GOOD)
CHECK = (Response.OK, Status.CHECK_CONDITION)


def head(cdb: bytes, lun: bytes = DISK.emit(), tag: int = 1) -> bytes:
    return HEADER.pack(lun, tag, 0, 0, 0) + cdb.ljust(32, b"\0")


@attrs.frozen
class Sent:
    """A request, and where its answer comes to."""

    driver: HostileDriver
    at: Addr
    data_at: Addr
    size: int

    @property
    def pending(self) -> bool:
        return self.driver.get(self.at, 1)[0] == PENDING

    @property
    def answer(self) -> tuple[int, int]:
        """Response and status."""
        _, _, _, status, response = RESPONSE.unpack(self.driver.get(self.at, RESPONSE.size))
        return response, status

    @property
    def residual(self) -> int:
        return int(RESPONSE.unpack(self.driver.get(self.at, RESPONSE.size))[1])

    @property
    def asc(self) -> int:
        return int.from_bytes(self.driver.get(Addr(self.at + RESPONSE.size + 12), 2), "big")

    @property
    def data(self) -> bytes:
        return self.driver.get(self.data_at, self.size)


def send(
    driver: HostileDriver,
    read: Sequence[bytes],
    write: int = 0,
    *,
    slot: int = 0,
    queue: int = FIRST,
    response: int = RESPONSE_SIZE,
    kick: bool = True,
) -> Sent:
    """A chain of these readable parts, ``response`` bytes for the answer, and ``write`` bytes of data."""
    descs = [Desc(driver.put(part), len(part)) for part in read]
    at, data = driver.put(bytes([PENDING]) * max(1, response)), driver.put(bytes([PENDING]) * max(1, write))
    if response:
        descs.append(Desc(at, response, WRITE))
    if write:
        descs.append(Desc(data, write, WRITE))
    driver.rings[queue].chain(slot, *descs)
    driver.rings[queue].offer(slot)
    if kick:
        driver.kick(queue)
    return Sent(driver, at, data, write)


async def answered(sent: Sent) -> tuple[int, int]:
    with bounded():
        while sent.pending:  # noqa: ASYNC110  the ring is not ours to wait for
            await trio.sleep(0.001)
    return sent.answer


def tmf(function: int, lun: bytes = DISK.emit(), tag: int = 1) -> bytes:
    return b"".join((bytes(4), function.to_bytes(4, "little"), lun, tag.to_bytes(8, "little")))


async def works(driver: HostileDriver, queue: int = FIRST) -> None:
    sent = send(driver, [head(commands.read(7, 1))], 512, slot=8, queue=queue)
    assert await answered(sent) == GOOD
    assert sent.data == bytes(driver.pair.store.data[7 * 512 : 8 * 512])  # type: ignore[attr-defined]


async def begin(driver: HostileDriver, features: int | None = None) -> None:
    """Up, with the unit attentions of that taken."""
    await driver.start(features, queues=4)
    for lun in TWO.luns:
        sent = send(driver, [head(commands.unit_ready(), lun.emit())], slot=12)
        assert await answered(sent) == CHECK


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


# Task management


@pytest.mark.hostile("K03")
@pytest.mark.virtio("SCSI-DEV-11", "SCSI-DEV-22", "SCSI-DEV-23")
@pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "mmio"])
@pytest.mark.parametrize("first", [CONTROL, FIRST])
async def test_a_request_and_its_abort_that_come_together_are_answered_once_each(first: int, transport: str) -> None:
    async with open_scsi_pair(attrs.evolve(TWO, transport=transport)) as pair, unharmed(pair):
        store = pair.store
        async with hostile_driver(pair) as driver:
            await begin(driver)
            store.at_once, store.gate = False, trio.Event()
            request = send(driver, [head(commands.write(0, 1), tag=5), b"w" * 512], kick=False)
            abort = send(driver, [tmf(Tmf.ABORT_TASK, tag=5)], queue=CONTROL, response=1, kick=False)
            for queue in (first, CONTROL if first == FIRST else FIRST):
                driver.kick(queue)
            await trio.sleep(0.1)
            store.gate.set()
            await until(lambda: not request.pending and not abort.pending)
            assert request.answer == (Response.ABORTED, 0)
            assert driver.get(abort.at, 1) == b"\0"
            assert (driver.rings[FIRST].used_idx, driver.rings[CONTROL].used_idx) == (3, 1)
            store.at_once, store.gate = True, None
            await works(driver)


@pytest.mark.hostile("K03")
async def test_a_reset_of_a_unit_under_load_answers_every_command_once() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair):
        store = pair.store
        async with hostile_driver(pair) as driver:
            await begin(driver)
            store.at_once, store.gate = False, trio.Event()
            sent = [
                send(driver, [head(commands.read(i, 1), tag=i)], 512, slot=3 * i, queue=queue)
                for queue in (FIRST, SECOND)
                for i in range(4)
            ]
            await until(lambda: store.inside == 4)
            resets = [
                send(driver, [tmf(Tmf.LOGICAL_UNIT_RESET)], queue=CONTROL, response=1, slot=2 * i) for i in range(3)
            ]
            await trio.testing.wait_all_tasks_blocked()
            # Its commands of after the reset are told so first, and are none of those that it ends.
            after = send(driver, [head(commands.read(0, 1), tag=99)], 512, slot=13, queue=SECOND)
            assert await answered(after) == CHECK
            assert all(reset.pending for reset in resets)
            store.gate.set()
            await until(lambda: not any(one.pending for one in (*sent, *resets)))
            assert {one.answer for one in sent} == {(Response.RESET, 0)}
            assert [ring.used_idx for ring in driver.rings] == [3, 0, 6, 5]
            store.at_once, store.gate = True, None


@pytest.mark.hostile("K03", "R07")
async def test_a_head_that_is_made_available_again_while_in_flight_latches_its_queue_only() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair):
        store = pair.store
        async with hostile_driver(pair) as driver:
            await begin(driver)
            store.at_once, store.gate = False, trio.Event()
            first = send(driver, [head(commands.read(0, 1), tag=5)], 512)
            await until(lambda: store.inside == 1)
            for _ in range(10 * 16):
                driver.rings[FIRST].offer(0)
            # It is found out by the function that looks at the queue first.
            abort = send(driver, [tmf(Tmf.ABORT_TASK_SET)], queue=CONTROL, response=1)
            await until(lambda: bool(pair.vhost.status & DeviceStatus.NEEDS_RESET))
            store.gate.set()
            await until(lambda: not first.pending and not abort.pending)
            assert first.answer == (Response.ABORTED, 0)
            store.at_once, store.gate = True, None
            await works(driver, queue=SECOND)


@pytest.mark.hostile("B05")
async def test_whatever_is_asked_for_at_once_memory_is_that_of_the_workers() -> None:
    async with open_scsi_pair(attrs.evolve(TWO, workers=2, queue_size=64)) as pair, unharmed(pair):
        store = pair.store
        async with hostile_driver(pair) as driver:
            await begin(driver)
            store.at_once, store.gate = False, trio.Event()
            data, answers = driver.alloc(4 << 20), []
            for queue in (FIRST, SECOND):
                for slot in range(0, 60, 3):
                    answers.append(driver.put(bytes([PENDING]) * RESPONSE_SIZE))
                    descs = (
                        Desc(driver.put(head(commands.write(0, 8192))), 51),
                        Desc(data, 4 << 20),
                        Desc(answers[-1], RESPONSE_SIZE, WRITE),
                    )
                    driver.rings[queue].chain(slot, *descs)
                    driver.rings[queue].offer(slot)
                driver.kick(queue)
            await trio.testing.wait_all_tasks_blocked()
            assert store.inside == 1
            store.gate.set()
            await until(lambda: [ring.used_idx for ring in driver.rings[2:]] == [22, 20], 2_000_000)
        store.at_once, store.gate = True, None


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
async def test_what_a_request_turns_into_while_it_is_done_changes_nothing(
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


# Events


@pytest.mark.hostile("K03")
@pytest.mark.virtio("SCSI-DEV-26")
async def test_an_event_queue_without_buffers_loses_events_and_says_so_as_soon_as_there_is_one() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        for lun in (5, 6, 7):
            pair.domain.add(Lun(0, lun), new_unit(4096))
        await trio.testing.wait_all_tasks_blocked()
        assert pair.scsi.events.drops == {"no_buffer": 3}
        buffer = driver.alloc(16)
        driver.send(Desc(buffer, 16, WRITE), queue=EVENTS)
        await until(lambda: driver.rings[EVENTS].used_idx == 1)
        assert EVENT.unpack(driver.get(buffer, 16)) == (EVENTS_MISSED, bytes(8), 0)
        driver.send(Desc(buffer, 16, WRITE), queue=EVENTS)
        await trio.sleep(1)
        assert driver.rings[EVENTS].used_idx == 1
        for lun in (5, 6, 7):
            await pair.domain.remove(Lun(0, lun))
        await until(lambda: driver.rings[EVENTS].used_idx == 2)
        assert EVENT.unpack(driver.get(buffer, 16)) == (1, Lun(0, 5).emit_reported(), 2)


async def test_a_short_event_buffer_is_told_nothing_but_that_and_costs_no_event() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        short, whole = driver.put(b"\xaa" * 15), driver.put(b"\xaa" * 64)
        driver.send(Desc(short, 15, WRITE), queue=EVENTS)
        driver.send(Desc(whole, 64, WRITE), queue=EVENTS, head=1)
        pair.domain.resized(DISK)
        await until(lambda: driver.rings[EVENTS].used_idx == 2)
        assert driver.get(short, 15) == bytes(4) + b"\xaa" * 11
        assert driver.get(whole, 17) == EVENT.pack(3, DISK.emit_reported(), 0x092A) + b"\xaa"
        assert [driver.rings[EVENTS].elem(i) for i in range(2)] == [(0, 4), (1, 16)]
        assert await answered(send(driver, [head(commands.unit_ready())])) == CHECK


@pytest.mark.hostile("R14")
async def test_an_event_buffer_that_can_not_be_written_latches_the_event_queue() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        driver.send(Desc(driver.alloc(16), 16), queue=EVENTS)
        await trio.sleep(0.1)
        assert not pair.vhost.status & DeviceStatus.NEEDS_RESET  # nobody looked
        pair.domain.notify(DISK, pair.scsi.domain.units[DISK].events or 2)  # type: ignore[arg-type]
        pair.domain.resized(DISK)
        await until(lambda: bool(pair.vhost.status & DeviceStatus.NEEDS_RESET))
        assert "has to be writable" in pair.vhost.failures[-1]
        assert await answered(send(driver, [head(commands.unit_ready())])) == CHECK
        await works(driver)


@pytest.mark.virtio("SCSI-DEV-18", "SCSI-DEV-27")
async def test_a_driver_without_features_gets_none_of_them() -> None:
    only = SUPPORTED & ~(1 << ScsiFeature.INOUT | 1 << ScsiFeature.HOTPLUG | 1 << ScsiFeature.CHANGE)
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver, only & ~(1 << RingFeature.EVENT_IDX))
        both = send(driver, [head(commands.read(0, 1)), bytes(8)], 512)
        assert await answered(both) == (Response.FAILURE, 0)
        driver.send(Desc(driver.alloc(16), 16, WRITE), queue=EVENTS)
        pair.domain.resized(DISK)
        pair.domain.add(Lun(0, 5), new_unit(4096))
        await pair.domain.remove(Lun(0, 5))
        await trio.sleep(1)
        assert driver.rings[EVENTS].used_idx == 0


@pytest.mark.virtio("SCSI-DEV-4")
async def test_sizes_that_a_driver_chose_are_those_of_its_chains_until_it_resets() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        for field, size in ((ScsiConfigField.SENSE_SIZE, 18), (ScsiConfigField.CDB_SIZE, 16)):
            pair.vhost.write_config(field.value[0], size.to_bytes(4, "little"))
        short = HEADER.pack(DISK.emit(), 1, 0, 0, 0) + commands.read(3, 1)
        sent = send(driver, [short], 512, response=30)
        assert await answered(sent) == GOOD
        assert sent.data == bytes(pair.store.data[3 * 512 : 4 * 512])
        await driver.reset()
        assert driver.config(ScsiConfigField.SENSE_SIZE.value[0], 4) == 96
        assert driver.config(ScsiConfigField.CDB_SIZE.value[0], 4) == 32


# A hostile device


def answer(pair: ScsiPair, queue: int, response: bytes, size: int) -> None:
    """The next chain that waits gets this in its writable part and this length, without anything being done."""
    device = HostileDevice(pair)
    ring = device.rings[queue]
    slot = ring.entry(ring.used_idx)
    desc = ring.read(slot)
    raw = bytes(device.memory.view(Addr(desc.addr), desc.size))
    rows = [Desc.parse(raw[at : at + 16]) for at in range(0, len(raw), 16)] if desc.flags & 4 else [desc]
    first = next(row for row in rows if row.flags & WRITE)
    device.memory.view(Addr(first.addr), len(response), True)[:] = response
    ring.give(slot, size)
    device.call(queue)
    device.close()


@pytest.mark.hostile("D03", "D02")
@pytest.mark.parametrize(
    ("response", "size"),
    [
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 0), 0, id="nothing written"),
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 0), RESPONSE_SIZE + 511, id="a byte short"),
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 0), RESPONSE_SIZE + 513, id="more than there is room for"),
        pytest.param(RESPONSE.pack(0, 513, 0, 0, 0), RESPONSE_SIZE + 512, id="residual"),
        pytest.param(RESPONSE.pack(0, 0, 0, 0, 99), RESPONSE_SIZE + 512, id="response"),
    ],
)
async def test_no_byte_is_handed_up_that_the_device_did_not_say_it_wrote(response: bytes, size: int) -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair:
        await pair.read(0, 1)
        store = pair.store
        store.at_once, store.gate = False, trio.Event()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(ScsiError, match="FAILURE"):
                    await pair.read(0, 1)

            nursery.start_soon(read)
            await until(lambda: store.inside == 1)
            answer(pair, FIRST, response, size)
        assert pair.initiator.figures[0].errors == {"no_answer": 1}
        store.gate.set()
        store.at_once, store.gate = True, None
        await pair.reset()
        await pair.transfer()


@pytest.mark.hostile("D01", "D05")
async def test_a_ring_that_the_device_breaks_is_reset_and_its_commands_are_done() -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair:
        await pair.read(0, 1)
        store = pair.store
        store.data[:512] = b"d" * 512
        for breaks in ("index", "head"):
            store.at_once, store.gate = False, trio.Event()
            found = b""

            async def read() -> None:
                nonlocal found
                found = (await pair.read(0, 1)).data

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await until(lambda: store.inside == 1)
                async with hostile_device(pair) as device:
                    if breaks == "index":
                        device.rings[FIRST].used_idx += 9
                    else:
                        device.rings[FIRST].give(99, 513)
                    device.call(FIRST)
                    await trio.testing.wait_all_tasks_blocked()
                store.gate.set()
            assert found == b"d" * 512
        store.gate = None
        assert pair.initiator.figures[0].queued == 2


@pytest.mark.hostile("D03")
async def test_events_and_answers_of_a_device_that_makes_them_up_harm_nobody() -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair, unharmed(pair):
        with pair.initiator.events() as events:
            answer(pair, EVENTS, EVENT.pack(0x7FFF_FFFF, b"\xff" * 8, 0xFFFF_FFFF), 16)
            assert events.receive_nowait() == ScsiEvent(0x7FFF_FFFF, None, 0xFFFF_FFFF)
        answer(pair, EVENTS, EVENT.pack(1, bytes(8), 0), 15)
        assert pair.initiator.event_figures.drops == {"short": 1}


@pytest.mark.hostile("D03")
@pytest.mark.parametrize(("value", "size"), [(0, 0), (77, 1)])
async def test_a_function_is_done_only_where_the_device_surely_said_so(value: int, size: int) -> None:
    async with open_scsi_pair(ScsiOptions(queue_size=16)) as pair, unharmed(pair), trio.open_nursery() as nursery:
        pair.store.at_once, pair.store.gate = False, trio.Event()
        found: list[object] = []

        async def read() -> None:
            found.append((await pair.read(0, 1)).good)

        async def manage() -> None:
            found.append(await pair.initiator.manage(Tmf.LOGICAL_UNIT_RESET, DISK))

        nursery.start_soon(read)
        await until(lambda: pair.store.inside == 1)
        nursery.start_soon(manage)
        await trio.testing.wait_all_tasks_blocked()
        answer(pair, CONTROL, bytes((value,)), size)
        await until(lambda: found == [Response.FAILURE])
        nursery.start_soon(pair.reset)
        await trio.testing.wait_all_tasks_blocked()
        pair.store.gate.set()
        pair.store.gate, pair.store.at_once = None, True
        await until(lambda: found == [Response.FAILURE, True])


@pytest.mark.hostile("D12")
async def test_nothing_reaches_the_device_but_the_request() -> None:
    async with open_scsi_pair() as pair:
        plain = pair.vhost.ops
        found: list[Watched] = []

        def around(memory: object) -> Watched:
            found.append(Watched(memory))  # type: ignore[arg-type]
            return found[-1]

        pair.vhost.ops = WrappedOps(plain, around)
        await pair.reset()
        result = await pair.initiator.execute(commands.write(0, 1), data_out=b"x" * 512, attention=True)
        assert result.sense is not None
        assert result.sense.key == Key.UNIT_ATTENTION
        reads = [access for memory in found for access in memory.log if access.act is Act.READ]
        # The indirect table, the request, the data, each as long as it is: no slot, no piece as a whole.
        assert [access.size for access in reads] == [3 * 16, 51, 512]
        pair.vhost.ops = plain
