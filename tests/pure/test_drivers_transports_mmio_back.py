"""virtio-mmio registers of the device's half, one access at a time."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from drivers.bus.back import Identity
from drivers.bus.vhost import OfferedQueue
from drivers.contracts.hw import RegisterBlock
from drivers.transports.mmio.back import MmioDevice
from drivers.transports.mmio.registers import CONFIG, READABLE, WRITABLE, Interrupt, Register
from rings.features import FeatureTable, RingFeature, mask
from rings.layout import SPLIT_ALIGN, split_sizes
from rings.memory import Addr, MappedMemory
from rings.status import Status

R = Register
RAM = 0x1000
TABLE = FeatureTable({0: "ONE", 70: "FAR"})
FEATURES = mask((0, 70, *(RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC)))
CONFIG_BYTES = bytes(range(1, 13))


@attrs.define
class Slot:
    """A slot without a bus, and its interrupt line."""

    memory: MappedMemory = attrs.field(factory=MappedMemory)
    block: RegisterBlock | None = None
    line: bool = False
    rises: int = 0

    def insert(self, block: RegisterBlock) -> None:
        self.block = block

    def remove(self) -> None:
        self.block = None

    def set_irq(self, asserted: bool) -> None:
        self.rises += asserted and not self.line
        self.line = asserted


class Driver:
    """The accesses of a driver."""

    def __init__(self) -> None:
        self.slot = Slot()
        self.slot.memory.add(Addr(RAM), memoryview(bytearray(0x4000)))
        self.mmio = MmioDevice(self.slot, Identity(1))
        self.mmio.device.offer(TABLE, FEATURES, [OfferedQueue("first", 16), OfferedQueue("second", 8)], CONFIG_BYTES)
        self.mmio.bind()

    def read(self, register: int, size: int = 4) -> int:
        assert self.slot.block is not None
        return self.slot.block.read(register, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        assert self.slot.block is not None
        self.slot.block.write(register, size, value)

    def negotiate(self, features: int = FEATURES) -> None:
        for status in (1, 3):
            self.write(R.STATUS, status)
        for select in range(4):
            self.write(R.DRIVER_FEATURES_SEL, select)
            self.write(R.DRIVER_FEATURES, features >> 32 * select & 0xFFFF_FFFF)
        self.write(R.STATUS, 11)

    def place(self, queue: int, num: int = 8) -> None:
        self.write(R.QUEUE_SEL, queue)
        self.write(R.QUEUE_SIZE, num)
        at = RAM + 0x1000 * queue
        lows = R.QUEUE_DESC_LOW, R.QUEUE_DRIVER_LOW, R.QUEUE_DEVICE_LOW
        for low, size, align in zip(lows, split_sizes(num), SPLIT_ALIGN, strict=True):
            at = -(-at // align) * align
            self.write(low, at)
            self.write(low + 4, 0)
            at += size

    def start(self) -> None:
        self.negotiate()
        for queue in range(2):
            self.place(queue)
            self.write(R.QUEUE_READY, 1)
        self.write(R.STATUS, 15)


@pytest.fixture
def driver() -> Iterator[Driver]:
    actual = Driver()
    yield actual
    actual.write(R.STATUS, 0)


SPECIFIED = {
    0x000: "R", 0x004: "R", 0x008: "R", 0x00C: "R", 0x010: "R", 0x014: "W", 0x020: "W", 0x024: "W", 0x030: "W",
    0x034: "R", 0x038: "W", 0x044: "RW", 0x050: "W", 0x060: "R", 0x064: "W", 0x070: "RW", 0x080: "W", 0x084: "W",
    0x090: "W", 0x094: "W", 0x0A0: "W", 0x0A4: "W", 0x0AC: "W", 0x0B0: "R", 0x0B4: "R", 0x0B8: "R", 0x0BC: "R",
    0x0C0: "RW", 0x0FC: "R",
}  # fmt: skip


def test_registers_lie_where_the_specification_has_them_and_go_the_same_way() -> None:
    actual = {int(r): "R" * (r in READABLE) + "W" * (r in WRITABLE) for r in Register}
    assert actual == SPECIFIED
    assert CONFIG == 0x100


@pytest.mark.virtio("MMIO-DEV-1", "MMIO-DEV-2")
def test_identity(driver: Driver) -> None:
    assert driver.read(R.MAGIC_VALUE).to_bytes(4, "little") == b"virt"
    assert driver.read(R.VERSION) == 2
    assert driver.read(R.DEVICE_ID) == 1
    assert driver.read(R.VENDOR_ID) == 0x1AF4


@pytest.mark.virtio("MMIO-DEV-15")
def test_features_are_words_of_any_width_and_hold_nothing_the_transport_can_not_do(driver: Driver) -> None:
    offered = 0
    for select in range(8):
        driver.write(R.DEVICE_FEATURES_SEL, select)
        offered |= driver.read(R.DEVICE_FEATURES) << 32 * select
    assert offered == FEATURES
    every = Driver()
    every.mmio.device.offer(FeatureTable({}), mask(RingFeature), [OfferedQueue("q", 8)], b"")
    assert not every.mmio.device.device_features & mask((RingFeature.ADMIN_VQ, RingFeature.SR_IOV))


@pytest.mark.hostile("S08")
@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_control_register_answers_nothing_but_an_aligned_word(driver: Driver, size: int) -> None:
    assert [driver.read(register, size) for register in Register] == [0] * len(Register)
    assert driver.read(R.MAGIC_VALUE + 2) == 0
    driver.write(R.STATUS, 1, size)
    assert driver.read(R.STATUS) == 0


def test_write_only_registers_read_zero_and_read_only_registers_ignore_writes(driver: Driver) -> None:
    assert [driver.read(register) for register in WRITABLE - READABLE] == [0] * len(WRITABLE - READABLE)
    before = {register: driver.read(register) for register in READABLE}
    for register in READABLE - WRITABLE:
        driver.write(register, 0xFFFF_FFFF)
    assert {register: driver.read(register) for register in READABLE} == before


@pytest.mark.hostile("S08")
@pytest.mark.parametrize("offset", [0x018, 0x01C, 0x028, 0x03C, 0x040, 0x048, 0x0C4, 0x0F8])
def test_an_offset_without_a_register_reads_zero_and_takes_nothing(driver: Driver, offset: int) -> None:
    driver.write(offset, 0xFFFF_FFFF)
    assert driver.read(offset) == 0


@pytest.mark.virtio("MMIO-DEV-3", "MMIO-DEV-4")
def test_a_cause_stands_from_its_event_until_it_is_acknowledged(driver: Driver) -> None:
    driver.start()
    queue = driver.mmio.device.queues[0]
    assert driver.read(R.INTERRUPT_STATUS) == 0
    driver.mmio.call(queue)
    assert driver.read(R.INTERRUPT_STATUS) == Interrupt.USED_BUFFER
    assert driver.read(R.INTERRUPT_STATUS) == Interrupt.USED_BUFFER  # reading is no acknowledgement
    driver.mmio.call(queue)
    assert (driver.slot.line, driver.slot.rises) == (True, 1)
    driver.mmio.config_changed()
    assert driver.read(R.INTERRUPT_STATUS) == Interrupt.USED_BUFFER | Interrupt.CONFIG_CHANGE
    driver.write(R.INTERRUPT_ACK, Interrupt.USED_BUFFER)
    assert driver.read(R.INTERRUPT_STATUS) == Interrupt.CONFIG_CHANGE
    assert driver.slot.line
    driver.write(R.INTERRUPT_ACK, 0xFFFF_FFFC)
    assert driver.read(R.INTERRUPT_STATUS) == Interrupt.CONFIG_CHANGE
    driver.write(R.INTERRUPT_ACK, Interrupt.CONFIG_CHANGE)
    assert (driver.read(R.INTERRUPT_STATUS), driver.slot.line) == (0, False)


@pytest.mark.virtio("MMIO-DEV-5", "MMIO-DEV-6", "MMIO-DEV-8")
def test_a_reset_clears_every_cause_and_every_queue_and_touches_no_ring_any_more(driver: Driver) -> None:
    driver.start()
    driver.mmio.call(driver.mmio.device.queues[0])
    driver.mmio.config_changed()
    assert driver.slot.memory.pinned
    driver.write(R.STATUS, 0)
    assert (driver.read(R.STATUS), driver.read(R.INTERRUPT_STATUS), driver.slot.line) == (0, 0, False)
    for queue in range(2):
        driver.write(R.QUEUE_SEL, queue)
        assert driver.read(R.QUEUE_READY) == 0
    assert not driver.slot.memory.pinned
    assert attrs.astuple(driver.slot)[2:] == (False, 1)


@pytest.mark.virtio("MMIO-DEV-8")
def test_a_queue_that_is_not_ready_is_let_go_of_at_once(driver: Driver) -> None:
    driver.start()
    driver.write(R.QUEUE_SEL, 0)
    pinned = driver.slot.memory.pinned
    driver.write(R.QUEUE_READY, 0)
    assert driver.read(R.QUEUE_READY) == 0
    assert driver.slot.memory.pinned == pinned // 2
    assert driver.mmio.device.queues[0].ring is None
    assert driver.mmio.device.queues[1].live
    driver.write(R.QUEUE_READY, 1)  # whose tasks have ended
    assert driver.read(R.QUEUE_READY) == 0


@pytest.mark.virtio("MMIO-DEV-7")
def test_a_change_of_configuration_between_two_reads_changes_the_generation(driver: Driver) -> None:
    before = driver.read(R.CONFIG_GENERATION)
    assert driver.read(CONFIG) == 0x04030201
    driver.mmio.device.set_config(bytes(12))
    assert driver.read(R.CONFIG_GENERATION) != before
    assert driver.read(CONFIG) == 0


@pytest.mark.virtio("MMIO-DEV-14")
@pytest.mark.parametrize("region", [0, 1, 255])
def test_shared_memory_regions_do_not_exist(driver: Driver, region: int) -> None:
    driver.write(R.SHM_SEL, region)
    registers = R.SHM_LEN_LOW, R.SHM_LEN_HIGH, R.SHM_BASE_LOW, R.SHM_BASE_HIGH
    assert [driver.read(register) for register in registers] == [0xFFFF_FFFF] * 4


@pytest.mark.hostile("S08")
def test_configuration_is_read_at_natural_widths_and_reads_zero_behind_its_end(driver: Driver) -> None:
    for size in (1, 2, 4):
        for offset in range(0, 12, size):
            value = driver.read(CONFIG + offset, size)
            assert value.to_bytes(size, "little") == CONFIG_BYTES[offset : offset + size]
    for offset, size in ((1, 2), (2, 4), (0, 8), (0, 3), (12, 4), (0xF8, 4)):
        assert driver.read(CONFIG + offset, size) == 0


@pytest.mark.hostile("S06", "S07")
@pytest.mark.parametrize("queue", [2, 0xFFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_a_queue_that_does_not_exist_reads_zero_and_takes_nothing(driver: Driver, queue: int) -> None:
    driver.start()
    driver.place(queue)
    driver.write(R.QUEUE_READY, 1)
    assert (driver.read(R.QUEUE_SIZE_MAX), driver.read(R.QUEUE_READY)) == (0, 0)
    driver.write(R.QUEUE_NOTIFY, queue)
    assert driver.read(R.STATUS) == 15
    assert [q.num for q in driver.mmio.device.queues] == [8, 8]


@pytest.mark.hostile("S05")
def test_a_queue_that_is_ready_keeps_what_it_was_configured_with(driver: Driver) -> None:
    driver.negotiate()
    driver.place(0)
    driver.write(R.QUEUE_READY, 1)
    queue = driver.mmio.device.queues[0]
    before = queue.num, queue.addrs.desc, queue.addrs.driver, queue.addrs.device, queue.ring
    driver.place(0, 4)
    driver.write(R.QUEUE_DESC_HIGH, 0xFFFF_FFFF)
    driver.write(R.QUEUE_READY, 1)
    assert (queue.num, queue.addrs.desc, queue.addrs.driver, queue.addrs.device, queue.ring) == before


@pytest.mark.hostile("R23")
@pytest.mark.parametrize("num", [0, 3, 32, 0xFFFF_FFFF])
def test_a_queue_size_that_can_not_be_keeps_the_old_one(driver: Driver, num: int) -> None:
    driver.negotiate()
    driver.write(R.QUEUE_SEL, 0)
    driver.write(R.QUEUE_SIZE, 4)
    driver.write(R.QUEUE_SIZE, num)
    assert driver.mmio.device.queues[0].num == 4


@pytest.mark.hostile("R22")
def test_rings_that_can_not_be_break_the_device_when_they_are_made_ready(driver: Driver) -> None:
    driver.negotiate()
    driver.place(0)
    driver.write(R.QUEUE_DESC_HIGH, 1)
    driver.write(R.QUEUE_READY, 1)
    assert driver.read(R.QUEUE_READY) == 0
    assert driver.read(R.STATUS) & Status.NEEDS_RESET
    assert not driver.slot.memory.pinned


@pytest.mark.virtio("MMIO-DEV-9", "MMIO-DEV-10", "MMIO-DEV-11", "MMIO-DEV-13")
def test_a_queue_is_reset_alone_and_enabled_again_with_another_size() -> None:
    driver = Driver()
    driver.mmio.device.offer(
        TABLE, FEATURES | mask((RingFeature.RING_RESET,)), [OfferedQueue("first", 16), OfferedQueue("second", 8)], b""
    )
    driver.write(R.STATUS, 0)
    driver.negotiate(FEATURES | mask((RingFeature.RING_RESET,)))
    driver.place(0)
    driver.place(1)
    driver.write(R.QUEUE_READY, 1)
    driver.write(R.QUEUE_SEL, 0)
    driver.write(R.QUEUE_READY, 1)
    driver.write(R.STATUS, 15)
    assert (driver.read(R.QUEUE_READY), driver.read(R.QUEUE_RESET)) == (1, 0)
    for other in (0, 2):
        driver.write(R.QUEUE_RESET, other)
        assert driver.read(R.QUEUE_READY) == 1
    driver.write(R.QUEUE_RESET, 1)
    assert (driver.read(R.QUEUE_READY), driver.read(R.QUEUE_RESET)) == (0, 0)
    assert (driver.mmio.device.queues[0].num, driver.mmio.device.queues[0].ring) == (16, None)
    assert driver.mmio.device.queues[1].ring is not None
    driver.place(0, 4)
    driver.write(R.QUEUE_READY, 1)
    assert (driver.read(R.QUEUE_READY), driver.read(R.QUEUE_RESET)) == (1, 0)
    assert driver.mmio.device.queues[0].num == 4
