"""Queues and doorbells of the mailbox endpoint, one doorbell at a time."""

from __future__ import annotations

from typing import cast

import pytest

from drivers.bus.back import Identity
from drivers.bus.vhost import OfferedQueue
from drivers.contracts.hw import Epc
from drivers.transports.epf_mailbox import registers as mb
from drivers.transports.epf_mailbox.back import MailboxEpf
from rings.formats import FORMATS
from rings.layout import RingAddrs, split_sizes
from rings.memory import Addr
from rings.status import Status
from support.rigs.mailbox_endpoint import FEATURES, TABLE, Controller, Driver, driver

__all__ = ["driver"]  # a fixture


Reg, QueueReg, Ext, ExtQueue = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue
OKAY, ERROR, NONE = mb.MailboxOutcome.OKAY, mb.MailboxOutcome.ERROR, mb.MailboxOutcome.NONE
ACTIVATE, DEACTIVATE, NOTIFY = mb.QueueCommand.ACTIVATE, mb.QueueCommand.DEACTIVATE, mb.QueueCommand.NOTIFY
MIB = 1 << 20

# Queues


def test_a_ring_may_be_in_three_pieces_in_any_order(driver: Driver) -> None:
    """Defect of the RFC: one address, and one piece in the legacy layout."""
    driver.negotiate()
    addrs = driver.place(1, 4)
    assert driver.ask_queue(1, ACTIVATE) == OKAY
    queue = driver.device.queues[1]
    assert (queue.addrs, queue.num) == (addrs, 4)


@pytest.mark.parametrize("extension", [True, False])
def test_a_driver_that_knows_no_extension_has_its_ring_in_one_piece(extension: bool) -> None:
    driver = Driver(poll=True, extension=extension)
    driver.set_status(1)
    driver.set_status(3)
    driver.put(Reg.GUEST_FEATURES.value, 1 << 32 | 1)
    assert driver.ask(mb.DeviceCommand.FINALIZE_FEATURES) == OKAY
    driver.set_status(11)
    driver.put(QueueReg.ADDR.at(0), driver.epc.remote.base)
    assert driver.ask_queue(0, ACTIVATE) == OKAY
    queue = driver.device.queues[0]
    base = driver.epc.remote.base
    assert (queue.num, queue.addrs) == (16, RingAddrs(base, Addr(base + 256), Addr(base + 4096)))
    if not extension:
        assert driver.dump()[0x540:] == bytes(0x2C0)
    driver.close()


def test_a_contiguous_ring_has_the_size_that_both_sides_compute() -> None:
    assert FORMATS["split"].contiguous(256, Addr(0), 4096)[1] == 10246
    assert FORMATS["split"].contiguous(512, Addr(0), 4096)[1] == 16390
    addrs, size = FORMATS["split"].contiguous(2, Addr(0x1000), 4096)
    assert addrs == RingAddrs(Addr(0x1000), Addr(0x1020), Addr(0x2000))
    assert size == 4096 + split_sizes(2)[2]


def test_a_second_activate_is_an_error_and_changes_nothing(driver: Driver) -> None:
    """Defect of the RFC: its driver wrote ACTIVATE twice."""
    driver.negotiate()
    driver.place(0)
    assert driver.ask_queue(0, ACTIVATE) == OKAY
    queue = driver.device.queues[0]
    before = queue.ring, queue.addrs.desc, queue.num
    driver.place(0, 4, at=0x4000)
    assert driver.ask_queue(0, ACTIVATE) == ERROR
    assert (queue.ring, queue.addrs.desc, queue.num) == before
    assert driver.get(QueueReg.STATUS.at(0)) == mb.QUEUE_ENABLED


def test_deactivate_is_answered_once_the_ring_is_let_go_of(driver: Driver) -> None:
    """Defect of the RFC: its driver did not wait for it, and freed the ring."""
    driver.start()
    pinned = driver.epc.remote.pinned
    assert driver.ask_queue(0, DEACTIVATE) == OKAY
    assert driver.epc.remote.pinned == pinned // 2
    assert driver.get(QueueReg.STATUS.at(0)) == 0
    assert driver.ask_queue(0, DEACTIVATE) == ERROR


def test_activate_before_features_are_agreed_on_is_an_error(driver: Driver) -> None:
    driver.place(0)
    assert driver.ask_queue(0, ACTIVATE) == ERROR
    assert driver.epc.remote.pinned == 0


@pytest.mark.hostile("S05")
def test_a_queue_that_is_active_keeps_what_it_was_configured_with(driver: Driver) -> None:
    driver.put(QueueReg.MSIX_VECTOR.at(0), 1)
    driver.start()
    driver.put(QueueReg.MSIX_VECTOR.at(0), 5)
    driver.put(QueueReg.NUM_BUFFERS.at(0), 0xFFFF)
    driver.place(0, 16, at=0x4000)
    queue = driver.device.queues[0]
    driver.epf.call(queue)
    assert driver.epc.irqs == [1]
    assert (queue.num, queue.max_num) == (8, 16)


@pytest.mark.hostile("S06")
@pytest.mark.parametrize("vector", [9, 0x7FFF, 0xFFFE])
def test_a_vector_beyond_the_table_is_refused(driver: Driver, vector: int) -> None:
    driver.negotiate()
    driver.place(0)
    driver.put(QueueReg.MSIX_VECTOR.at(0), vector)
    assert driver.ask_queue(0, ACTIVATE) == ERROR
    driver.put(Reg.MSIX_CONFIG.value, vector)
    driver.epf.config_changed()
    assert driver.epc.irqs == []


def test_no_vector_causes_no_interrupt(driver: Driver) -> None:
    driver.start()
    driver.epf.call(driver.device.queues[0])
    driver.epf.config_changed()
    assert driver.epc.irqs == []


@pytest.mark.hostile("R23")
@pytest.mark.parametrize("num", [0, 3, 32, 0xFFFF_FFFF])
def test_a_queue_size_that_can_not_be_is_refused(driver: Driver, num: int) -> None:
    driver.negotiate()
    driver.place(0, num)
    assert driver.ask_queue(0, ACTIVATE) == ERROR


@pytest.mark.hostile("R22")
@pytest.mark.parametrize("at", [8, 0x10_0000_0000, (1 << 64) - 0x100000])
def test_a_ring_where_none_can_be_is_refused_and_breaks_the_device(driver: Driver, at: int) -> None:
    driver.negotiate()
    driver.put(ExtQueue.NUM.at(0), 8)
    for field in (ExtQueue.DESC, ExtQueue.DRIVER, ExtQueue.DEVICE):
        driver.put(field.at(0), at)
    assert driver.ask_queue(0, ACTIVATE) == ERROR
    assert driver.get(Reg.DEVICE_STATUS.value) & Status.NEEDS_RESET
    assert driver.epc.remote.pinned == 0


# Doorbells


@pytest.mark.hostile("S07")
@pytest.mark.parametrize(("offset", "size"), [(36, 4), (60, 4), (2, 4), (0, 2), (0, 1), (0, 8)])
def test_a_doorbell_that_does_not_exist_is_counted_and_nothing_is_looked_at(
    driver: Driver, offset: int, size: int
) -> None:
    doorbells = driver.epc.doorbells
    assert doorbells is not None
    driver.put(Reg.CMD.value, mb.DeviceCommand.RESET)
    for n in range(8):
        driver.put(QueueReg.CMD.at(n), ACTIVATE)
    doorbells.write(offset, size, 1)
    assert driver.epf.registers()["spurious_doorbells"] == 1
    assert doorbells.read(offset, size) == 0
    assert driver.get(Reg.CMD.value) == mb.DeviceCommand.RESET


@pytest.mark.hostile("S07")
def test_a_doorbell_without_a_command_does_nothing(driver: Driver) -> None:
    before = driver.dump()
    for doorbell in range(9):
        driver.ring(doorbell)
    assert driver.dump() == before


@pytest.mark.hostile("S02", "S07")
@pytest.mark.parametrize("queue", range(8))
def test_a_notification_before_the_queue_runs_is_taken_and_ignored_and_never_answered(
    driver: Driver, queue: int
) -> None:
    assert driver.ask_queue(queue, NOTIFY) == NONE
    assert driver.get(QueueReg.CMD.at(queue)) == NONE
    assert [q.kicks for q in driver.device.queues] == [0, 0]


def test_an_endpoint_that_polls_gets_no_doorbells() -> None:
    driver = Driver(poll=True)
    assert driver.epc.doorbells is None
    assert driver.get(Ext.DOORBELL_BAR.value) == mb.NO_DOORBELL
    driver.close()


def test_link_down_ends_the_pending_command(driver: Driver) -> None:
    driver.start()
    driver.put(Reg.CMD.value, mb.DeviceCommand.SET_STATUS)
    driver.put(QueueReg.CMD.at(3), ACTIVATE)
    driver.epf.link_down()
    assert driver.get(Reg.CMD.value) == driver.get(QueueReg.CMD.at(3)) == NONE
    assert driver.get(Reg.DEVICE_STATUS.value) == 0
    assert driver.epc.remote.pinned == 0


def test_a_device_with_more_than_there_is_room_for_is_not_bound() -> None:
    epc = Controller()
    for queues, config in ((9, 0), (1, 1025)):
        epf = MailboxEpf(cast(Epc, epc), 0, Identity(7))
        epf.device.offer(TABLE, FEATURES, [OfferedQueue(f"q{n}", 8) for n in range(queues)], bytes(config))
        with pytest.raises(ValueError, match="too large for a mailbox"):
            epf.bind()
    epc.dma.close()
    epc.remote.close()


def test_unbind_gives_the_registers_back(driver: Driver) -> None:
    driver.epf.unbind()
    assert driver.epc.dma.statistics().buffers == 0
    assert driver.epc.dma.pinned == 0
    driver.epf.serve_doorbell(0)
    driver.device.set_config(b"")


def test_every_register_is_described_by_name(driver: Driver) -> None:
    driver.start()
    actual = driver.epf.registers()
    assert actual["device_status"] == 15
    assert actual["queue1.status"] == mb.QUEUE_ENABLED
    assert actual["ext.magic"].to_bytes(4, "little") == b"VMBX"
    assert actual["ext.queue0.num"] == 8
