"""The device status at the device: each move a driver may make, and each it may not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from drivers.transports.pci.registers import Common
from rings.layout import WRITE
from rings.status import MOVES, Status
from rings.testing import Desc
from support.rigs.virtio_pci import SMALL, refused, written
from vnet.testing import (
    FRAME,
    bounded,
    hostile_driver,
    open_pair,
    over,
    tapped,
    unharmed,
    until,
)

NO_REGISTERS = ("vhost_user",)
"""Transports on which a device shows no status, and no kick reaches a queue that is not set up."""
OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


@pytest.mark.virtio("INIT-DRV-11", "INIT-DRV-12", "FEAT-DRV-9", "FEAT-DRV-3", "STATUS-DRV-3", "LEG-DRV-1")
@pytest.mark.parametrize(
    ("field", "lie", "why"),
    [
        (Common.DEVICE_FEATURE, lambda value: value & ~1, "does not offer VERSION_1"),
        (Common.DEVICE_STATUS, lambda v: v & ~Status.FEATURES_OK, "refused"),
        (Common.NUM_QUEUES, lambda _: 1, "1 queues, 2 needed"),
        (Common.QUEUE_SIZE, lambda _: 0, "queue size of 0"),
        (Common.QUEUE_SIZE, lambda _: 24, "queue size of 24"),
        (Common.QUEUE_ENABLE, lambda _: 0, "can't be enabled"),
        (Common.QUEUE_MSIX_VECTOR, lambda _: 0xFFFF, "could not map MSI-X vector 1"),
        (Common.CONFIG_MSIX_VECTOR, lambda _: 0xFFFF, "could not map MSI-X vector 0"),
        (Common.QUEUE_NOTIFY_OFF, lambda _: 0x7000, "address outside the structure"),
    ],
)
async def test_a_step_that_fails_for_good_ends_in_failed_and_the_next_attempt_starts_with_a_reset(
    field: Common, lie: Callable[[int], int], why: str
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.lies[tap.at(field)] = lie
        assert why in await refused(pair, tap)
        assert pair.vhost.status == Status.FAILED
        assert written(tap, Common.DEVICE_STATUS)[-1] == Status.FAILED
        assert all(not value & Status.DRIVER_OK for value in written(tap, Common.DEVICE_STATUS))
        tap.lies.clear()
        tap.log.clear()
        await pair.reset()
        assert tap.common()[0] == (Common.DEVICE_STATUS, 0, True)


@pytest.mark.virtio("PCI-DRV-13")
async def test_a_packed_queue_of_no_descriptors_is_not_set_up() -> None:
    with over("pci", "packed"):
        async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
            tap.lies[tap.at(Common.QUEUE_SIZE)] = lambda _: 0
            await refused(pair, tap)
            assert written(tap, Common.QUEUE_SIZE) == []


@pytest.mark.parametrize("field", [Common.QUEUE_MSIX_VECTOR, Common.QUEUE_NOTIFY_OFF, Common.QUEUE_ENABLE])
async def test_rings_of_a_set_up_that_fails_half_way_are_released(field: Common) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        before = pair.rc.memory.pinned
        tap.lies[tap.at(field)] = lambda _: 0x7000
        await refused(pair, tap)
        assert pair.rc.memory.pinned == before


async def test_a_device_that_asks_for_more_memory_than_there_is_is_refused() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.lies[tap.at(Common.QUEUE_SIZE)] = lambda _: 32768
        assert "no room for" in await refused(pair, tap)


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S03")
@pytest.mark.parametrize("bit", MOVES, ids=lambda bit: bit.name)
async def test_a_status_bit_out_of_turn_reads_back_unset(bit: Status) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.reset()
        driver.status = bit
        assert driver.status == (bit if not MOVES[bit] else 0)


@pytest.mark.every_transport
@pytest.mark.hostile("S03")
@pytest.mark.parametrize("value", [0x01, 0x03, 0x0B, 0x07, 0x40, 0xF0, 0x30, 0x10])
async def test_a_write_that_clears_a_status_bit_changes_nothing(value: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        driver.status = value
        assert driver.status == OK


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.hostile("S03")
async def test_driver_ok_without_features_ok_is_refused_and_after_failed_only_a_reset_helps() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.reset()
        driver.status = Status(0x0F)  # all at once: features 0 lack VERSION_1
        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER
        assert not pair.vhost.running
        driver.status |= Status.FAILED
        driver.status = Status(0xFF)
        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER | Status.FAILED
        await driver.start()
        assert driver.status == OK


@pytest.mark.every_transport(but=NO_REGISTERS)
@pytest.mark.virtio("STATUS-DEV-1", "STATUS-DEV-2")
@pytest.mark.hostile("S01")
async def test_buffers_before_driver_ok_are_not_consumed_and_not_answered() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        kicks = [queue.kicks for queue in pair.vhost.queues]
        frame = driver.put(bytes(12) + FRAME)
        pair.device_port.inject(FRAME)
        for _ in range(10):
            driver.send(Desc(frame, 12 + len(FRAME)))
            driver.send(Desc(frame, 2000, WRITE), queue=0)
        await trio.sleep(1)
        assert [ring.used_idx for ring in driver.rings] == [0, 0]
        assert [queue.kicks for queue in pair.vhost.queues] == kicks
        assert driver.calls == []
        assert pair.plug.figures.pairs[0].received.packets == pair.plug.figures.pairs[0].sent.packets == 0


@pytest.mark.virtio("STATUS-DEV-3", "STATUS-DEV-4")
async def test_a_broken_ring_sets_needs_reset_and_then_tells_the_driver() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        driver.rings[1].set_entry(0, 999)
        driver.rings[1].avail_idx = 1
        events: list[Status] = []
        driver.function.request_irq(0, lambda: events.append(driver.status))
        driver.kick(1)
        with bounded():
            await trio.testing.wait_all_tasks_blocked()
        assert events == [OK | Status.NEEDS_RESET]


@pytest.mark.every_transport
@pytest.mark.virtio("STATUS-DRV-4")
async def test_a_driver_that_must_reset_does_not_wait_for_outstanding_requests() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        pair.vhost.queues[1].close()  # the device serves its transmit queue no more
        for _ in range(16):
            pair.driver_port.inject(FRAME)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.virtio.queues[1].ring.state().in_flight == 16
        pair.vhost.fail("of its own accord")
        await until(lambda: pair.virtio.restarts == 1 and pair.device.up)
        assert list(pair.virtio.failures) == ["the device asked for a reset"]
