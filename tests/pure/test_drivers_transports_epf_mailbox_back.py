"""The mailbox endpoint: registers and commands, one doorbell at a time."""

from __future__ import annotations

import pytest

from drivers.transports.epf_mailbox import registers as mb
from rings.status import Status
from support.rigs.mailbox_endpoint import CONFIG_BYTES, FEATURES, Driver, driver
from support.rigs.ntb import PlainVhost

__all__ = ["driver"]  # a fixture


Reg, QueueReg, Ext, ExtQueue = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue
OKAY, ERROR, NONE = mb.MailboxOutcome.OKAY, mb.MailboxOutcome.ERROR, mb.MailboxOutcome.NONE
ACTIVATE, DEACTIVATE, NOTIFY = mb.QueueCommand.ACTIVATE, mb.QueueCommand.DEACTIVATE, mb.QueueCommand.NOTIFY
MIB = 1 << 20

# What is shown


def test_the_function_has_the_virtio_ids_as_its_subsystem(driver: Driver) -> None:
    header = driver.epc.header
    assert header is not None
    assert (header.vendor_id, header.device_id) == (0x104C, 0xB0F0)
    assert (header.subsystem_vendor_id, header.subsystem_id) == (0x1AF4, 7)
    assert driver.epc.msix == (9, mb.BAR, 0x4A0)


def test_features_beyond_64_bits_are_offered_and_accepted(driver: Driver) -> None:
    """Defect of the RFC: 64 feature bits, and none of the ring's among them."""
    assert driver.get(Reg.HOST_FEATURES.value) == FEATURES & (1 << 64) - 1
    assert driver.get(Ext.DEVICE_FEATURES.value) == FEATURES
    driver.start()
    assert driver.device.features == FEATURES


def test_the_endpoint_publishes_how_many_buffers_each_queue_has(driver: Driver) -> None:
    assert driver.get(Reg.NUM_QUEUES.value) == 2
    assert [driver.get(QueueReg.NUM_BUFFERS.at(n)) for n in range(8)] == [16, 8, 0, 0, 0, 0, 0, 0]


def test_configuration_can_be_read_and_its_generation_moves_with_it(driver: Driver) -> None:
    """Defect of the RFC: the configuration was never filled in, and its generation never written."""
    assert bytes(driver.at((mb.CONFIG, 12))) == CONFIG_BYTES
    before = driver.get(Ext.GENERATION.value)
    driver.device.set_config(b"\xff" * 12)
    after = driver.get(Ext.GENERATION.value)
    assert after == before + 2  # odd in between
    assert after & 0xFF == driver.get(Reg.CONFIG_GENERATION.value)
    assert not after & 1
    assert bytes(driver.at((mb.CONFIG, 13))) == b"\xff" * 12 + b"\0"


def test_a_write_to_the_configuration_is_carried_out_on_command_and_undone_where_it_is_refused(driver: Driver) -> None:
    plain = PlainVhost()
    driver.device.bound = plain.bind(driver.device)
    driver.put((mb.CONFIG + 4, 2), 0xABCD)
    driver.put(Ext.CONFIG_OFFSET.value, 4)
    driver.put(Ext.CONFIG_LENGTH.value, 2)
    assert driver.ask(mb.DeviceCommand.WRITE_CONFIG) == OKAY
    assert plain.written == [(4, b"\xcd\xab")]
    assert bytes(driver.at((mb.CONFIG, 12))) == CONFIG_BYTES  # this device does not keep it


@pytest.mark.hostile("S08")
@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 13), (12, 1), (0xFFFF, 0xFFFF), (0xFFFF, 1)])
def test_a_write_beyond_the_configuration_is_refused(driver: Driver, offset: int, length: int) -> None:
    driver.put(Ext.CONFIG_OFFSET.value, offset)
    driver.put(Ext.CONFIG_LENGTH.value, length)
    assert driver.ask(mb.DeviceCommand.WRITE_CONFIG) == ERROR


# Commands


def test_status_is_cleared_when_a_command_is_accepted_and_the_answer_names_it(driver: Driver) -> None:
    """Defect of the RFC: the status of an earlier command stood there until the driver cleared it."""
    driver.put(Reg.CMD_STATUS.value, OKAY)
    driver.put(Ext.COMPLETED.value, 99)
    seen: list[int] = []
    reset = driver.device.reset

    def watched() -> None:
        seen.append(driver.get(Reg.CMD_STATUS.value))
        reset()

    driver.device.reset = watched  # type: ignore[method-assign]
    assert driver.ask(mb.DeviceCommand.RESET) == OKAY
    assert seen == [NONE]
    assert driver.get(Reg.CMD.value) == NONE
    assert driver.get(Ext.COMPLETED.value) == driver.sequence


@pytest.mark.parametrize("command", [5, 0x80, 0xFF])
def test_a_command_that_does_not_exist_is_answered_with_an_error(driver: Driver, command: int) -> None:
    before = driver.dump()
    assert driver.ask(command) == ERROR
    assert driver.ask_queue(0, command) == ERROR
    driver.put(Reg.CMD_STATUS.value, NONE)
    driver.put(QueueReg.CMD_STATUS.at(0), NONE)
    for place in (Ext.SEQUENCE.value, Ext.COMPLETED.value):
        driver.put(place, 0)
    assert driver.dump() == before


def test_reset_leaves_the_registers_as_they_were_at_first(driver: Driver) -> None:
    """Defect of the RFC: reset cleared neither status nor queues, and status 0 was never written."""
    initial = driver.dump()
    driver.put(Reg.MSIX_CONFIG.value, 3)
    driver.put(QueueReg.MSIX_VECTOR.at(1), 2)
    driver.start()
    assert driver.get(QueueReg.STATUS.at(0)) == mb.QUEUE_ENABLED
    assert driver.ask(mb.DeviceCommand.RESET) == OKAY
    assert driver.get(Reg.DEVICE_STATUS.value) == 0
    for place in (Reg.CMD_STATUS.value, *(QueueReg.CMD_STATUS.at(n) for n in range(2))):
        driver.put(place, NONE)
    for place in (Ext.SEQUENCE.value, Ext.COMPLETED.value):
        driver.put(place, 0)
    assert driver.dump() == initial
    assert driver.epc.remote.pinned == 0


def test_writing_status_0_is_a_reset_as_well(driver: Driver) -> None:
    driver.start()
    assert driver.set_status(0) == OKAY
    assert driver.device.status == 0
    assert driver.epc.remote.pinned == 0


@pytest.mark.hostile("S03")
def test_a_status_that_is_not_taken_is_an_error_and_reads_back_as_it_is(driver: Driver) -> None:
    assert driver.set_status(0x0F) == ERROR
    assert driver.get(Reg.DEVICE_STATUS.value) == Status.ACKNOWLEDGE | Status.DRIVER
    assert driver.set_status(0x01) == OKAY
    assert driver.get(Reg.DEVICE_STATUS.value) == Status.ACKNOWLEDGE | Status.DRIVER


@pytest.mark.hostile("S04")
@pytest.mark.parametrize("features", [FEATURES | 1 << 5, FEATURES | 1 << 127, FEATURES & ~(1 << 32), 0])
def test_features_that_do_not_work_are_an_error_and_features_ok_stays_clear(driver: Driver, features: int) -> None:
    assert driver.negotiate(features) == ERROR
    assert not driver.get(Reg.DEVICE_STATUS.value) & Status.FEATURES_OK


def test_features_can_not_be_changed_any_more_once_they_were_agreed_on(driver: Driver) -> None:
    driver.negotiate()
    driver.put(Ext.DRIVER_FEATURES.value, 1 << 32)
    assert driver.ask(mb.DeviceCommand.FINALIZE_FEATURES) == ERROR
    assert driver.device.features == driver.device.driver_features == FEATURES
