"""The mailbox's registers: where they lie, and what the endpoint does about them, one doorbell at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import pytest

from drivers.contracts.hw import DmaBuffer, Epc, Handler, LinkEvents, PciHeader, RegisterBlock
from drivers.transports.epf_mailbox import registers as mb
from drivers.transports.epf_mailbox.back import MailboxEpf
from rings.features import FeatureTable, RingFeature, mask
from rings.layout import RingAddrs, contiguous_split, split_sizes
from rings.memory import Addr, Memory
from rings.status import Status
from vnet.linux.memory import HostMemory

Reg, QueueReg, Ext, ExtQueue = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue
OKAY, ERROR, NONE = mb.MailboxOutcome.OKAY, mb.MailboxOutcome.ERROR, mb.MailboxOutcome.NONE
ACTIVATE, DEACTIVATE, NOTIFY = mb.QueueCommand.ACTIVATE, mb.QueueCommand.DEACTIVATE, mb.QueueCommand.NOTIFY
TABLE = FeatureTable({0: "ONE", 70: "FAR"})
FEATURES = mask((0, 70, RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
CONFIG_BYTES = bytes(range(1, 13))
MIB = 1 << 20


class Controller:
    """As much of an endpoint controller as the function uses; ``remote`` is the other host's memory."""

    lossy = False

    def __init__(self) -> None:
        self.dma = HostMemory(MIB, name="ep")
        self.remote = HostMemory(MIB, name="rc")
        self.buffer: DmaBuffer | None = None
        self.doorbells: RegisterBlock | None = None
        self.msix: tuple[int, ...] = ()
        self.header: PciHeader | None = None
        self.events: LinkEvents | None = None
        self.irqs: list[int] = []

    def set_header(self, function: int, header: PciHeader) -> None:
        self.header = header

    def set_bar(self, function: int, bar: int, size: int, block: RegisterBlock) -> None:
        assert bar == mb.DOORBELL_BAR
        self.doorbells = block

    def set_bar_ram(self, function: int, bar: int, buffer: DmaBuffer) -> None:
        assert bar == mb.BAR
        self.buffer = buffer

    def set_msix(self, function: int, vectors: int, bar: int, offset: int) -> None:
        self.msix = vectors, bar, offset

    def watch(self, function: int, events: LinkEvents, reset: Handler) -> None:
        self.events = events

    def clear(self, function: int) -> None:
        self.buffer = self.doorbells = None

    def window(self, function: int) -> Memory:
        return self.remote

    def meter(self, function: int) -> None:
        return None

    async def settle(self) -> None:
        pass

    def raise_irq(self, function: int, vector: int) -> None:
        self.irqs.append(vector)


class Driver:
    """Whoever writes registers and rings doorbells."""

    def __init__(self, *, poll: bool = False, extension: bool = True) -> None:
        self.epc = Controller()
        self.epf = MailboxEpf(cast(Epc, self.epc), 0, 7, "test", poll=poll, extension=extension)
        self.device = self.epf.device
        self.device.offer(TABLE, FEATURES, [("first", 16), ("second", 8)], CONFIG_BYTES)
        self.epf.bind()
        self.extension = extension
        self.sequence = 0

    def close(self) -> None:
        self.device.reset()
        self.epc.dma.close()
        self.epc.remote.close()

    def at(self, place: tuple[int, int]) -> memoryview:
        offset, size = place
        assert self.epc.buffer is not None
        return self.epc.dma.view(Addr(self.epc.buffer.addr + offset), size, True)

    def get(self, place: tuple[int, int]) -> int:
        return int.from_bytes(self.at(place), "little")

    def put(self, place: tuple[int, int], value: int) -> None:
        self.at(place)[:] = value.to_bytes(place[1], "little")

    def dump(self) -> bytes:
        return bytes(self.at((0, mb.BAR_SIZE)))

    def ring(self, doorbell: int) -> None:
        if self.epc.doorbells is not None:
            self.epc.doorbells.write(mb.DOORBELL_SIZE * doorbell, mb.DOORBELL_SIZE, 1)
        else:
            self.epf.serve_doorbell(doorbell)

    def ask(self, command: int) -> int:
        self.put(Reg.CMD.value, command)
        if self.extension:
            self.sequence += 1
            self.put(Ext.SEQUENCE.value, self.sequence)
        self.ring(mb.DEVICE_DOORBELL)
        return self.get(Reg.CMD_STATUS.value)

    def ask_queue(self, queue: int, command: int) -> int:
        self.put(QueueReg.CMD.at(queue), command)
        self.ring(queue)
        return self.get(QueueReg.CMD_STATUS.at(queue))

    def set_status(self, status: int) -> int:
        self.put(Reg.DEVICE_STATUS.value, status)
        return self.ask(mb.DeviceCommand.SET_STATUS)

    def negotiate(self, features: int = FEATURES) -> int:
        self.set_status(1)
        self.set_status(3)
        self.put(Reg.GUEST_FEATURES.value, features & (1 << 64) - 1)
        if self.extension:
            self.put(Ext.DRIVER_FEATURES.value, features)
            self.put(Ext.DRIVER_VERSION.value, mb.EXT_VERSION)
        outcome = self.ask(mb.DeviceCommand.FINALIZE_FEATURES)
        self.set_status(11)
        return outcome

    def place(self, queue: int, num: int = 8, at: int = 0) -> RingAddrs:
        """Three areas, a page apart, and the second one first."""
        base = self.epc.remote.base + 0x10000 * queue + at
        addrs = RingAddrs(Addr(base + 0x2000), Addr(base), Addr(base + 0x1000))
        self.put(ExtQueue.NUM.at(queue), num)
        fields = (ExtQueue.DESC, addrs.desc), (ExtQueue.DRIVER, addrs.driver), (ExtQueue.DEVICE, addrs.device)
        for field, addr in fields:
            self.put(field.at(queue), addr)
        return addrs

    def start(self) -> None:
        assert self.negotiate() == OKAY
        for queue in range(2):
            self.place(queue)
            assert self.ask_queue(queue, ACTIVATE) == OKAY
        assert self.set_status(15) == OKAY


@pytest.fixture
def driver() -> Iterator[Driver]:
    found = Driver()
    yield found
    found.close()


# Layout


def test_the_block_is_the_one_of_the_rfc_byte_for_byte() -> None:
    assert {field.name: field.value for field in Reg} == {
        "HOST_FEATURES": (0x00, 8),
        "GUEST_FEATURES": (0x08, 8),
        "MSIX_CONFIG": (0x10, 2),
        "NUM_QUEUES": (0x12, 2),
        "DEVICE_STATUS": (0x14, 1),
        "CONFIG_GENERATION": (0x15, 1),
        "ISR": (0x16, 4),
        "CMD": (0x1A, 1),
        "CMD_STATUS": (0x1B, 1),
    }
    for n in range(8):
        assert [field.at(n) for field in QueueReg] == [
            (0x1C + 16 * n + at, size) for at, size in ((0, 1), (1, 1), (2, 2), (4, 2), (6, 2), (8, 8))
        ]
    assert mb.QueueReg.ADDR.at(7)[0] + 8 == 0x9C == mb.CONFIG
    assert (mb.CONFIG_SIZE, mb.MSIX, mb.VECTORS, mb.BAR_SIZE) == (1024, 0x4A0, 9, 2048)
    assert [c.value for c in mb.DeviceCommand][:4] == [0, 1, 2, 3]
    assert [c.value for c in mb.QueueCommand] == [0, 1, 2, 3]


def test_the_extension_lies_behind_everything_the_rfc_had_and_no_two_fields_overlap() -> None:
    pending = mb.MSIX + 16 * mb.VECTORS + 8
    places = [field.value for field in (*Reg, *Ext)]
    places += [field.at(n) for n in range(mb.MAX_QUEUES) for field in (*QueueReg, *ExtQueue)]
    places += [(mb.CONFIG, mb.CONFIG_SIZE), (mb.MSIX, pending - mb.MSIX)]
    for (start, size), (following, _) in pairwise(sorted(places)):
        assert start + size <= following
    assert min(field.value[0] for field in Ext) >= pending
    assert max(start + size for start, size in places) <= mb.BAR_SIZE


@pytest.mark.parametrize("place", [(0x16, 4), (0x24, 8), (0x00, 8), (0x15, 1), (0x9D, 7)])
def test_pieces_of_an_access_are_aligned_and_add_up(place: tuple[int, int]) -> None:
    """Defect of the RFC: a 4-byte isr at an offset that no 4-byte access may have, and likewise queue addresses."""
    parts = list(mb.pieces(*place))
    assert all(size in (1, 2, 4) and not at % size for at, size in parts)
    assert sum(size for _, size in parts) == place[1]
    assert all(a + n == b for (a, n), (b, _) in pairwise(parts))


@pytest.mark.parametrize(
    ("bar", "offset", "name"),
    [
        (0, 0x14, "device_status"),
        (0, 0x26, "queue0.addr"),
        (0, 0x1C + 16 * 7, "queue7.cmd"),
        (0, 0x9E, "config+0x2"),
        (0, 0x4B4, "msix[1]+0x4"),
        (0, 0x540, "magic"),
        (0, 0x590 + 40 + 0x10, "queue1.desc"),
        (0, 0x7FF, None),
        (2, 4, "notify[1]"),
        (2, 32, "doorbell"),
        (4, 0, None),
    ],
)
def test_registers_have_names(bar: int, offset: int, name: str | None) -> None:
    assert mb.register_name(bar, offset) == name


# What is shown


def test_the_function_has_the_virtio_ids_as_its_subsystem(driver: Driver) -> None:
    header = driver.epc.header
    assert header is not None
    assert (header.vendor_id, header.device_id) == (0x104C, 0xB010)
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
    written: list[tuple[int, bytes]] = []
    driver.device._written = lambda offset, data: written.append((offset, data))
    driver.put((mb.CONFIG + 4, 2), 0xABCD)
    driver.put(Ext.CONFIG_OFFSET.value, 4)
    driver.put(Ext.CONFIG_LENGTH.value, 2)
    assert driver.ask(mb.DeviceCommand.WRITE_CONFIG) == OKAY
    assert written == [(4, b"\xcd\xab")]
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


# Queues


def test_a_ring_may_be_in_three_pieces_in_any_order(driver: Driver) -> None:
    """Defect of the RFC: one address, and one piece in the legacy layout."""
    driver.negotiate()
    addrs = driver.place(1, 4)
    assert driver.ask_queue(1, ACTIVATE) == OKAY
    queue = driver.device.queues[1]
    assert (queue.desc, queue.driver, queue.used, queue.num) == (addrs.desc, addrs.driver, addrs.device, 4)


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
    assert (queue.num, queue.desc, queue.driver) == (16, driver.epc.remote.base, driver.epc.remote.base + 256)
    assert queue.used == driver.epc.remote.base + 4096
    if not extension:
        assert driver.dump()[0x540:] == bytes(0x2C0)
    driver.close()


def test_a_contiguous_ring_has_the_size_that_everybody_computes() -> None:
    assert contiguous_split(256, Addr(0), 4096)[1] == 10246
    assert contiguous_split(512, Addr(0), 4096)[1] == 16390
    addrs, size = contiguous_split(2, Addr(0x1000), 4096)
    assert addrs == RingAddrs(Addr(0x1000), Addr(0x1020), Addr(0x2000))
    assert size == 4096 + split_sizes(2)[2]


def test_a_second_activate_is_an_error_and_changes_nothing(driver: Driver) -> None:
    """Defect of the RFC: its driver wrote ACTIVATE twice."""
    driver.negotiate()
    driver.place(0)
    assert driver.ask_queue(0, ACTIVATE) == OKAY
    queue = driver.device.queues[0]
    before = queue.ring, queue.desc, queue.num
    driver.place(0, 4, at=0x4000)
    assert driver.ask_queue(0, ACTIVATE) == ERROR
    assert (queue.ring, queue.desc, queue.num) == before
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


def test_no_vector_interrupts_nobody(driver: Driver) -> None:
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
    assert driver.epf.spurious_doorbells == 1
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


def test_nobody_rings_an_endpoint_that_polls() -> None:
    driver = Driver(poll=True)
    assert driver.epc.doorbells is None
    assert driver.get(Ext.DOORBELL_BAR.value) == mb.NO_DOORBELL
    driver.close()


def test_link_down_ends_what_was_asked_for(driver: Driver) -> None:
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
        epf = MailboxEpf(cast(Epc, epc), 0, 7)
        epf.device.offer(TABLE, FEATURES, [(f"q{n}", 8) for n in range(queues)], bytes(config))
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
    found = driver.epf.registers()
    assert found["device_status"] == 15
    assert found["queue1.status"] == mb.QUEUE_ENABLED
    assert found["ext.magic"].to_bytes(4, "little") == b"VMBX"
    assert found["ext.queue0.num"] == 8
