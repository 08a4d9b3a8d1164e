"""Interrupts and notifications of a virtio-pci device."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drivers.testing import TappedAccess
from drivers.transports.pci.registers import CfgType, Common
from rings.layout import WRITE
from rings.testing import Desc
from support.rigs.virtio_pci import SMALL, bind, capabilities, overlay
from vnet.testing import (
    FRAME,
    HostileDriver,
    NetPair,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
    until,
)

NO_VECTOR = 0xFFFF
CAP_POINTER, STATUS = 0x34, 0x06
INTERRUPT_STATUS = 0x08
VENDOR_CAP = 0x09

# Interrupts


@pytest.mark.virtio("PCI-DRV-25", "PCI-DRV-26", "PCI-DRV-34")
@pytest.mark.parametrize("vectors", [0, 1, 2, 3])
async def test_the_driver_works_with_any_number_of_vectors(vectors: int) -> None:
    """None is INTx, one means both at once, two are shared by the queues, three are enough."""
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.max_vectors = vectors
        await bind(pair, tap)
        given = [v for f, v, w in tap.common() if w and f in {Common.CONFIG_MSIX_VECTOR, Common.QUEUE_MSIX_VECTOR}]
        assert given == [[], [0, 0, 0], [0, 1, 1], [0, 1, 2]][vectors]
        await pair.transfer(1 << 17)
        assert pair.driver_port.carrier
        config = pair.vhost.config
        pair.vhost.set_config(config[:6] + b"\0\0" + config[8:])
        await until(lambda: not pair.driver_port.carrier)
        pair.vhost.set_config(config)
        await until(lambda: pair.driver_port.carrier)
        assert pair.rc.rc.statistics().msi_spurious == 0
        if not vectors:
            assert pair.rc.rc.statistics().intx > 0
            assert pair.rc.rc.statistics().intx_spurious == 0


@pytest.mark.virtio("PCI-DRV-20")
async def test_with_msix_the_driver_does_not_read_the_isr() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        await bind(pair, tap)
        await pair.transfer(1 << 14)
        assert not tap.within(CfgType.ISR)


@pytest.mark.virtio("PCI-DEV-51", "PCI-DEV-52", "PCI-DEV-53", "PCI-DEV-54", "PCI-DEV-55", "PCI-DEV-56")
@pytest.mark.virtio("PCI-DEV-58", "PCI-DEV-59")
async def test_any_event_maps_to_any_vector_of_the_table_and_to_none() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        vectors = driver.function.enable_msix()
        assert vectors == 3
        for queue in (None, 0, 1):
            field = Common.CONFIG_MSIX_VECTOR if queue is None else Common.QUEUE_MSIX_VECTOR
            driver.write(Common.QUEUE_SELECT, queue or 0)
            for vector in (0, 1, 2, NO_VECTOR, 2, 3, 0, 0x7FF, 1, 0x8000, 0xFFFE, 2):
                driver.write(field, vector)
                assert driver.read(field) == (vector if vector < vectors else NO_VECTOR)


@pytest.mark.virtio("PCI-DEV-54")
@pytest.mark.parametrize("vector", [0, 1, 2])
async def test_all_events_may_share_one_vector(vector: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        await driver.negotiate()
        driver.map_vectors()
        driver.write(Common.CONFIG_MSIX_VECTOR, vector)
        for queue in range(2):
            driver.write(Common.QUEUE_SELECT, queue)
            driver.write(Common.QUEUE_MSIX_VECTOR, vector)
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        driver.status |= 4
        await one_of_each(driver)
        assert driver.calls == [vector] * 3


async def one_of_each(driver: HostileDriver[NetPair]) -> None:
    """A received frame, a sent one, and a change of the configuration and back."""
    pair = driver.pair
    driver.send(Desc(driver.alloc(2000), 2000, WRITE), queue=0)
    pair.device_port.inject(FRAME)
    await trio.testing.wait_all_tasks_blocked()
    driver.send(Desc(driver.put(bytes(12) + FRAME), 12 + len(FRAME)))
    await pair.device_port.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert [ring.used_idx for ring in driver.rings] == [1, 1]
    config = pair.vhost.config
    pair.vhost.set_config(config[:6] + b"\0\0" + config[8:])
    pair.vhost._config = config


@pytest.mark.virtio("PCI-DEV-55", "PCI-DEV-60", "PCI-DEV-61")
async def test_an_event_without_a_vector_causes_no_interrupt() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.map_vectors()
        driver.write(Common.CONFIG_MSIX_VECTOR, NO_VECTOR)
        for queue in range(2):
            driver.write(Common.QUEUE_SELECT, queue)
            driver.write(Common.QUEUE_MSIX_VECTOR, NO_VECTOR)
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        driver.status |= 4
        await one_of_each(driver)
        assert driver.calls == []
        assert not pair.function.config_read(STATUS, 2) & INTERRUPT_STATUS


def isr(driver: HostileDriver[NetPair]) -> int:
    return driver.function.bar_read(0, driver.structures[CfgType.ISR].offset, 1)


@pytest.mark.virtio("PCI-DEV-36", "PCI-DEV-37", "PCI-DEV-38", "PCI-DEV-39")
async def test_without_msix_the_isr_says_why_before_intx_is_asserted_and_reading_it_ends_both() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.function.disable_msix()
        seen: list[int] = []

        def interrupted() -> None:
            assert pair.function.config_read(STATUS, 2) & INTERRUPT_STATUS
            seen.append(isr(driver))
            assert not pair.function.config_read(STATUS, 2) & INTERRUPT_STATUS
            assert isr(driver) == 0

        driver.function.request_intx(interrupted)
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        driver.status |= 4
        await one_of_each(driver)
        assert seen == [1, 1, 2]


@pytest.mark.virtio("PCI-DEV-36", "PCI-DEV-37")
async def test_the_isr_gathers_both_causes_until_it_is_read() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        driver.function.disable_msix()
        driver.rings = [driver.set_up(queue) for queue in range(2)]
        driver.status |= 4
        await one_of_each(driver)
        assert pair.function.config_read(STATUS, 2) & INTERRUPT_STATUS
        assert (isr(driver), isr(driver)) == (3, 0)
        assert not pair.function.config_read(STATUS, 2) & INTERRUPT_STATUS


@pytest.mark.virtio("PCI-DEV-36")
async def test_with_msix_the_isr_says_so_too_when_the_configuration_changed() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        seen: list[int] = []
        driver.function.request_irq(0, lambda: seen.append(isr(driver)))
        await one_of_each(driver)
        assert seen == [2]


# Notifications


@pytest.mark.virtio("PCI-DRV-28", "PCI-DRV-30")
async def test_a_kick_is_a_16_bit_write_of_the_queue_index_at_the_queues_own_address() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        await bind(pair, tap)
        await pair.transfer(1 << 15)
        notify = tap.structures[CfgType.NOTIFY]
        kicks = set(tap.within(CfgType.NOTIFY))
        assert kicks == {
            TappedAccess(notify.bar, notify.offset + queue * notify.multiplier, 2, queue, True) for queue in (0, 1)
        }


@pytest.mark.parametrize("multiplier", [0, 2, 4, 64])
async def test_the_driver_uses_the_multiplier_of_the_capability(multiplier: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        at, _ = capabilities(tap.config_read)[CfgType.NOTIFY]
        overlay(tap, at + 16, multiplier.to_bytes(4, "little"))
        notify = tap.structures[CfgType.NOTIFY]
        tap.call_on_write(lambda a: pair.vhost.kick(a.value) if a in tap.within(CfgType.NOTIFY) else None)
        await bind(pair, tap)
        await pair.transfer(1 << 14)
        places = {a.offset - notify.offset for a in tap.within(CfgType.NOTIFY)}
        assert places <= {0, multiplier}
        assert multiplier in places
