"""The SCSI control and event queues against a hostile driver."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from drivers.devices.scsi import Lun, Response, ScsiStatus, Tmf
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.layout import (
    EVENT,
    EVENTS_MISSED,
    HEADER,
    RESPONSE,
    SUPPORTED,
    ScsiConfigField,
    ScsiFeature,
)
from rings.features import RingFeature
from rings.layout import WRITE
from rings.status import Status as DeviceStatus
from rings.testing import Desc
from support.rigs.scsi_hostile import CONTROL, EVENTS, FIRST, SECOND, TWO, answered, begin, head, send, tmf, works
from vnet.testing.checks import unharmed, until
from vnet.testing.hostile import EXTRA, hostile_driver
from vnet.testing.scsi import DISK, new_unit, open_scsi_pair

PENDING = 0xAA
SENSE_SIZE = 96
RESPONSE_SIZE = RESPONSE.size + SENSE_SIZE
GOOD = (Response.OK, ScsiStatus.GOOD)
CHECK = (Response.OK, ScsiStatus.CHECK_CONDITION)

# Task management


@pytest.mark.hostile("K03")
@pytest.mark.virtio("SCSI-DEV-11", "SCSI-DEV-22")
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


@pytest.mark.virtio("SCSI-DEV-23")
async def test_an_aborted_command_is_in_its_ring_when_the_answer_to_the_abort_is() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        store, seen = pair.store, list[int]()
        driver.function.request_irq(CONTROL + 1, lambda: seen.append(driver.rings[FIRST].used_idx))
        store.at_once, store.gate = False, trio.Event()
        request = send(driver, [head(commands.read(0, 1), tag=5)], 512)
        await until(lambda: store.inside == 1)
        before = driver.rings[FIRST].used_idx
        abort = send(driver, [tmf(Tmf.ABORT_TASK, tag=5)], queue=CONTROL, response=1)
        await trio.sleep(0.1)
        store.gate.set()
        await until(lambda: not request.pending and not abort.pending)
        assert seen == [before + 1]
        store.at_once, store.gate = True, None


@pytest.mark.virtio("SCSI-DEV-6")
async def test_a_command_is_answered_in_the_queue_that_it_came_by() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        for queue in (SECOND, FIRST, SECOND):
            before = [driver.rings[each].used_idx for each in (FIRST, SECOND)]
            assert await answered(send(driver, [head(commands.read(7, 1))], 512, queue=queue)) == GOOD
            after = [driver.rings[each].used_idx for each in (FIRST, SECOND)]
            assert [b - a for a, b in zip(before, after, strict=True)] == [queue == FIRST, queue == SECOND]


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
async def test_memory_is_bounded_by_the_workers_for_any_number_of_requests() -> None:
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


# Events


@pytest.mark.hostile("K03")
@pytest.mark.virtio("SCSI-DEV-26")
async def test_an_event_queue_without_buffers_loses_events_and_says_so_as_soon_as_there_is_one() -> None:
    async with open_scsi_pair(TWO) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await begin(driver)
        for lun in (5, 6, 7):
            pair.domain.add(Lun(0, lun), new_unit(4096))
        await trio.testing.wait_all_tasks_blocked()
        assert pair.plug.events.drops == {"no_buffer": 3}
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


async def test_a_short_event_buffer_gets_only_that_report_and_costs_no_event() -> None:
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
        assert not pair.vhost.status & DeviceStatus.NEEDS_RESET  # the queue was not served
        pair.domain.notify(DISK, pair.plug.domain.units[DISK].events or 2)  # type: ignore[arg-type]
        pair.domain.resized(DISK)
        await until(lambda: bool(pair.vhost.status & DeviceStatus.NEEDS_RESET))
        assert "has to be writable" in pair.vhost.failures[-1]
        assert await answered(send(driver, [head(commands.unit_ready())])) == CHECK
        await works(driver)


@pytest.mark.virtio("SCSI-DEV-18", "SCSI-DEV-27")
async def test_a_driver_without_features_gets_none_of_them() -> None:
    only = SUPPORTED & ~EXTRA & ~(1 << ScsiFeature.INOUT | 1 << ScsiFeature.HOTPLUG | 1 << ScsiFeature.CHANGE)
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
