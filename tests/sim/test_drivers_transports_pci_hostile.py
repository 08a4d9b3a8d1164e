"""A hostile driver at the registers of a virtio-pci device: each access has its exact outcome."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.transports.pci.registers import SIZES, CfgType, Common
from rings.status import Status
from rings.testing import Desc
from support.rigs.pci_hostile import HEADER, LENGTH, SMALL, works
from vnet.testing import FRAME, bounded, hostile_driver, open_pair, unharmed

NO_REGISTERS = ("vhost_user",)
"""Transports on which a device shows no status, and no kick reaches a queue that is not set up."""
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
NO_VECTOR = 0xFFFF
MMIO = 0x10_0000_0000
"""Where the root complex puts BARs."""
RING = (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)


@pytest.mark.every_transport
async def test_ordinary_use_works() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        for head in range(16):
            await works(driver, head)


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S02")
async def test_kicks_after_reset_and_before_set_up_do_nothing() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.reset()
        before = [(q.kicks, q.spurious) for q in pair.vhost.queues]
        for queue in range(2):
            for _ in range(100):
                driver.kick(queue)
        await trio.testing.wait_all_tasks_blocked()
        assert [(q.kicks, q.spurious - 100) for q in pair.vhost.queues] == before
        assert driver.status == 0
        assert driver.calls == []


# S05: what was configured stays what it is


@pytest.mark.hostile("S05")
@pytest.mark.parametrize("running", [False, True], ids=["enabled", "DRIVER_OK"])
@pytest.mark.parametrize(
    ("field", "values"),
    [
        (Common.QUEUE_SIZE, (1, 2, 8, 16, 0, 32768, 0xFFFF)),
        (Common.QUEUE_MSIX_VECTOR, (0, 1, NO_VECTOR, 0x800)),
        (Common.QUEUE_ENABLE, (0, 1, 2, 0xFFFF)),
        *((field, (0, 0x1000, MMIO, (1 << 64) - 1)) for field in RING),
    ],
    ids=lambda value: value.name if isinstance(value, Common) else "",
)
async def test_a_queue_that_is_enabled_keeps_what_it_was_configured_with(
    field: Common, values: tuple[int, ...], running: bool
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        if running:
            driver.status |= Status.DRIVER_OK
            await works(driver)
        for queue in range(2):
            driver.write(Common.QUEUE_SELECT, queue)
            before = driver.read(field)
            for value in values:
                driver.write(field, value)
                assert driver.read(field) == before
        driver.status |= Status.DRIVER_OK
        await works(driver, head=6)


@pytest.mark.hostile("S05")
async def test_a_queue_that_was_not_enabled_in_time_stays_out() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(0), driver.set_up(1, enable=False)]
        driver.status |= Status.DRIVER_OK
        driver.write(Common.QUEUE_SELECT, 1)
        driver.write(Common.QUEUE_ENABLE, 1)
        assert driver.read(Common.QUEUE_ENABLE) == 0
        driver.send(Desc(driver.put(HEADER + FRAME), LENGTH))
        await trio.testing.wait_all_tasks_blocked()
        assert driver.rings[1].used_idx == 0
        assert driver.status == OK


# S06: out of range


@pytest.mark.hostile("S06")
@pytest.mark.parametrize("queue", [2, 3, 255, 0x8000, 0xFFFF])
async def test_a_queue_that_does_not_exist_reads_zero_and_takes_nothing(queue: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.write(Common.QUEUE_SELECT, queue)
        fields = [field for field in Common if field.name.startswith("QUEUE") and field is not Common.QUEUE_SELECT]
        for field in fields:
            for value in (1, (1 << 8 * SIZES[field]) - 1, 0):
                driver.write(field, value)
                assert driver.read(field) == (NO_VECTOR if field is Common.QUEUE_MSIX_VECTOR else 0)
        driver.map_vectors()
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        driver.status |= Status.DRIVER_OK
        await works(driver)


@pytest.mark.hostile("S06")
@pytest.mark.parametrize("vector", [3, 4, 0x7FF, 0x800, 0x8000, 0xFFFE])
async def test_a_vector_beyond_the_table_reads_back_as_none_and_causes_no_interrupt(vector: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(queue, enable=False) for queue in range(2)]
        driver.write(Common.CONFIG_MSIX_VECTOR, vector)
        assert driver.read(Common.CONFIG_MSIX_VECTOR) == NO_VECTOR
        for queue in range(2):
            driver.write(Common.QUEUE_SELECT, queue)
            driver.write(Common.QUEUE_MSIX_VECTOR, vector)
            assert driver.read(Common.QUEUE_MSIX_VECTOR) == NO_VECTOR
            driver.write(Common.QUEUE_ENABLE, 1)
        driver.status |= Status.DRIVER_OK
        await works(driver)
        pair.vhost.fail("for a configuration change")
        assert driver.calls == []


# S07: notifications that mean nothing


@pytest.mark.hostile("S07")
@pytest.mark.parametrize("size", [1, 2, 4, 8])
async def test_notifications_beside_a_queues_address_or_of_another_width_do_nothing(size: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        at = driver.structures[CfgType.NOTIFY]
        good = {0, 4} if size == 2 else set()
        offsets = [o for o in (*range(64), 0x400, 0xFFC, 0xFFE, 0xFFF) if o not in good]
        before = [queue.kicks for queue in pair.vhost.queues]
        for offset in offsets:
            for value in (0, 1, 2, 0xFFFF, (1 << 8 * size) - 1):
                driver.function.bar_write(0, at.offset + offset, size, value)
        assert [queue.kicks for queue in pair.vhost.queues] == before
        await works(driver)


@pytest.mark.hostile("S07")
@pytest.mark.parametrize("value", [0, 1, 2, 0x7FFF, 0x8000, 0xFFFF])
async def test_the_value_of_a_notification_does_not_matter_its_address_does(value: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        driver.rings[1].chain(0, Desc(driver.put(HEADER + FRAME), LENGTH))
        driver.rings[1].offer(0)
        driver.kick(1, value)
        with bounded():
            assert (await pair.device_port.receive())[1] == FRAME


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S07")
async def test_a_disabled_queue_is_not_woken() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.rings = [driver.set_up(queue, enable=False) for queue in range(2)]
        driver.status |= Status.DRIVER_OK
        before = [(q.kicks, q.spurious) for q in pair.vhost.queues]
        for queue in range(2):
            for _ in range(10):
                driver.kick(queue)
        await trio.testing.wait_all_tasks_blocked()
        assert [(q.kicks, q.spurious - 10) for q in pair.vhost.queues] == before
        assert driver.status == OK


# S08: accesses of other shapes


@pytest.mark.hostile("S08")
async def test_configuration_is_read_at_any_width_and_reads_zero_behind_its_end() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        config = pair.vhost.config
        assert len(config) == 17
        for offset in range(20):
            for size in (1, 2, 4, 8):
                want = int.from_bytes(config[offset : offset + size], "little")
                assert driver.config(offset, size) == want
        at = driver.structures[CfgType.DEVICE]
        for offset in (17, 18, 0xFF8, 0xFFC, 0xFFF):
            assert driver.config(offset, 1) == 0
        for offset in range(20):
            for size in (1, 2, 4, 8):
                driver.function.bar_write(at.bar, at.offset + offset, size, (1 << 8 * size) - 1)
        assert pair.vhost.config == config
        await works(driver)


@pytest.mark.hostile("S08")
async def test_an_access_that_leaves_its_structure_or_its_bar_reads_nothing_and_writes_nothing() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        read, write = driver.function.bar_read, driver.function.bar_write
        for structure in (driver.structures[kind] for kind in (CfgType.COMMON, CfgType.ISR, CfgType.DEVICE)):
            end = structure.offset + structure.length
            for offset, size in ((end - 1, 2), (end - 2, 4), (end - 4, 8), (end, 1), (end, 4)):
                assert read(0, offset, size) == 0
                write(0, offset, size, 0)
        for offset, size in ((0x3FFF, 2), (0x4000, 1), (0x4000, 4), (1 << 40, 4), (-1, 1), (-4, 4)):
            assert read(0, offset, size) == (1 << 8 * size) - 1
            write(0, offset, size, 0)
        for bar in (1, 3, 4, 5, 6, -1):
            assert read(bar, 0, 4) == 0xFFFF_FFFF
            write(bar, 0, 4, 0)
        assert driver.status == OK
        await works(driver)
