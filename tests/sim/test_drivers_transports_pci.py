"""virtio-pci at its registers: identity, capabilities, interrupts, notifications, access through configuration."""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.model import BindState
from drivers.testing import CONFIG, RegisterAccess, TappedFunction
from drivers.transports.pci.front import VIRTIO_PCI
from drivers.transports.pci.registers import SIZES, CfgType, Common, Structure
from rings.features import word
from rings.ids import DeviceId
from rings.layout import WRITE
from rings.testing import Desc
from vnet.testing import (
    FRAME,
    HostileDriver,
    Options,
    Pair,
    bounded,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
    until,
)

SMALL = Options(queue_size=16)
NO_VECTOR = 0xFFFF
FREE = 0xE0  # room behind the device's own capabilities
CAP_POINTER, STATUS = 0x34, 0x06
INTERRUPT_STATUS = 0x08
VENDOR_CAP = 0x09
WIDE = (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)


async def bind(pair: Pair, tap: TappedFunction) -> None:
    pair.rc.pci.register_device(tap)
    await pair.world.wait_up()


def capabilities(read: Callable[[int, int], int]) -> dict[int, tuple[int, bytes]]:
    """By cfg_type: the offset of a vendor capability and its bytes."""
    found: dict[int, tuple[int, bytes]] = {}
    at = read(CAP_POINTER, 1)
    while at:
        if read(at, 1) == VENDOR_CAP:
            body = bytes(read(at + i, 1) for i in range(read(at + 2, 1)))
            found.setdefault(body[3], (at, body))
        at = read(at + 1, 1)
    return found


# Identity


@pytest.mark.virtio("PCI-DEV-1", "PCI-DEV-2", "PCI-DEV-3", "PCI-DEV-4", "PCI-DEV-5", "PCI-DEV-6")
async def test_a_device_shows_the_ids_of_a_modern_virtio_device() -> None:
    async with open_pair(SMALL) as pair:
        read = pair.function.config_read
        assert (read(0x00, 2), read(0x02, 2)) == (0x1AF4, 0x1041)
        assert read(0x08, 1) >= 1
        assert (read(0x2C, 2), read(0x2E, 2)) == (0x1AF4, 0x41)
        assert read(0x2E, 2) >= 0x40
        assert read(0x09, 3) == 0xFFFFFF, "three bytes are no access that PCI has"
        assert read(0x0A, 2) == 0x0200  # network controller, Ethernet


@pytest.mark.virtio("PCI-DRV-1", "PCI-DRV-2")
@pytest.mark.parametrize(
    ("vendor", "device", "virtio"),
    [(0x1AF4, 0x1040 + i, True) for i in DeviceId]
    + [(0x1AF4, 0x1000, True), (0x1AF4, 0x1001, True), (0x1AF4, 0x1004, True)]
    + [(0x8086, 0x1041, False), (0x1AF4, 0x1110, False), (0x1AF4, 0x107F, False)],
)
def test_the_driver_takes_modern_and_transitional_ids_of_every_type_it_knows(
    vendor: int, device: int, virtio: bool
) -> None:
    assert any(row.matches(device, vendor) for row in VIRTIO_PCI.id_table) == virtio


@pytest.mark.virtio("PCI-DRV-3")
@pytest.mark.parametrize("revision", [0, 1, 2, 0xFF])
async def test_the_driver_takes_any_revision(revision: int) -> None:
    async with open_pair(SMALL) as pair, tapped(pair) as tap:
        tap.lies[CONFIG, 0x08] = lambda _: revision
        await bind(pair, tap)


# Capabilities, of the device


@pytest.mark.virtio("PCI-DEV-8", "PCI-DEV-10", "PCI-DEV-11", "PCI-DEV-26", "PCI-DEV-27", "PCI-DEV-28", "PCI-DEV-29")
@pytest.mark.virtio("PCI-DEV-35", "PCI-DEV-40", "PCI-DEV-41", "PCI-DEV-47", "PCI-DEV-30")
async def test_each_structure_is_listed_aligned_inside_its_bar_and_large_enough() -> None:
    async with open_pair(SMALL) as pair, hostile_driver(pair) as driver:
        listed = capabilities(pair.function.config_read)
        assert sorted(listed) == sorted(CfgType)
        assert {kind: len(body) for kind, (_, body) in listed.items()} == {1: 16, 2: 20, 3: 16, 4: 16, 5: 20}
        found = {kind: Structure.parse(body[2:]) for kind, (_, body) in listed.items()}
        for kind, align in ((CfgType.COMMON, 4), (CfgType.NOTIFY, 2), (CfgType.ISR, 1), (CfgType.DEVICE, 4)):
            structure = found[kind]
            assert structure.offset % align == 0
            assert 0 < structure.length
            assert structure.offset + structure.length <= pair.function.bar_size(structure.bar)
        assert found[CfgType.COMMON].length >= 0x38
        notify = found[CfgType.NOTIFY]
        assert notify.multiplier % 2 == 0
        assert notify.multiplier & (notify.multiplier - 1) == 0
        for queue in range(driver.read(Common.NUM_QUEUES)):
            driver.write(Common.QUEUE_SELECT, queue)
            assert driver.read(Common.QUEUE_NOTIFY_OFF) * notify.multiplier + 2 <= notify.length


# Capabilities, as the driver reads them


@attrs.frozen
class Listed:
    """One vendor capability that a list of bad ones holds."""

    kind: int
    bar: int = 0
    offset: int = 0
    length: int = 0x38
    cap_len: int = 16

    def emit(self, following: int) -> bytes:
        return struct.pack(
            "<BBBBBxxxII", VENDOR_CAP, following, self.cap_len, self.kind, self.bar, self.offset, self.length
        )


def overlay(tap: TappedFunction, at: int, data: bytes) -> None:
    """Let ``data`` stand in the configuration space, byte by byte."""
    for i, byte in enumerate(data):
        tap.lies[CONFIG, at + i] = constant(byte)


def constant(value: int) -> Callable[[int], int]:
    return lambda _: value


UNUSABLE = {
    "cfg_type 0": Listed(0),
    "reserved cfg_type": Listed(0x77),
    "shared memory": Listed(8),
    "vendor data": Listed(9),
    "reserved BAR": Listed(CfgType.COMMON, bar=6),
    "BAR 255": Listed(CfgType.COMMON, bar=255),
    "BAR that is not there": Listed(CfgType.COMMON, bar=4),
    "empty": Listed(CfgType.COMMON, length=0),
    "beyond its BAR": Listed(CfgType.COMMON, offset=0x3FF0),
    "wraps": Listed(CfgType.COMMON, offset=0xFFFF_FFFF, length=0xFFFF_FFFF),
    "too short": Listed(CfgType.COMMON, cap_len=15),
    "no length": Listed(CfgType.COMMON, cap_len=0),
}


@pytest.mark.virtio("PCI-DRV-5", "PCI-DRV-6", "PCI-DRV-8", "PCI-DRV-35")
@pytest.mark.parametrize("bad", UNUSABLE.values(), ids=UNUSABLE)
async def test_what_can_not_be_used_is_skipped_and_the_first_usable_structure_is_taken(bad: Listed) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        first = tap.config_read(CAP_POINTER, 1)
        overlay(tap, CAP_POINTER, bytes([FREE]))
        overlay(tap, FREE, bad.emit(first))
        await bind(pair, tap)


@pytest.mark.virtio("PCI-DRV-6")
async def test_a_second_structure_of_a_kind_is_not_looked_at() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        last = max(at for at, _ in capabilities(tap.config_read).values())
        overlay(tap, last + 1, bytes([FREE]))
        overlay(tap, FREE, Listed(CfgType.COMMON, offset=0x2000).emit(0))
        await bind(pair, tap)


@pytest.mark.virtio("PCI-DRV-7", "PCI-DRV-9", "PCI-DRV-10")
async def test_capabilities_and_structures_may_be_larger_than_they_have_to_be() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        for at, _ in list(capabilities(tap.config_read).values()):
            tap.lies[CONFIG, at + 2] = lambda value: value + 44
        at, _ = capabilities(pair.function.config_read)[CfgType.COMMON]
        overlay(tap, at + 12, (0x1000).to_bytes(4, "little"))
        await bind(pair, tap)
        common = tap.structures[CfgType.COMMON]
        assert all(a.offset + a.size <= common.offset + 0x38 for a in tap.log if 0 <= a.bar and a.offset < 0x1000)


BAD_LISTS: dict[str, list[tuple[int, bytes]]] = {
    "no list": [(STATUS, b"\0")],
    "ends at once": [(CAP_POINTER, b"\0")],
    "starts in the header": [(CAP_POINTER, b"\x3c")],
    "starts at the end": [(CAP_POINTER, b"\xfc")],
    "loops on itself": [(CAP_POINTER, bytes([FREE])), (FREE, bytes([9, FREE]))],
    "loops over two": [
        (CAP_POINTER, bytes([FREE])),
        (FREE, Listed(0x55).emit(FREE + 16)),
        (FREE + 16, Listed(0x55).emit(FREE)),
    ],
    "all ones": [(CAP_POINTER, b"\xff" * 0xCC)],
}


@pytest.mark.virtio("PCI-DRV-35")
@pytest.mark.parametrize("bar", [None, 0, 16])
@pytest.mark.parametrize("bad", [[], *BAD_LISTS.values()], ids=["as it is", *BAD_LISTS])
async def test_a_list_without_the_structures_or_without_an_end_is_refused_in_bounded_time(
    bad: list[tuple[int, bytes]], bar: int | None
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.log.clear()
        for at, data in bad:
            overlay(tap, at, data)
        if bar is not None:
            tap.bar_sizes[0] = bar
        elif not bad:
            return
        pair.rc.pci.register_device(tap)
        await until(lambda: pair.rc.pci.binding(tap).state is BindState.FAILED)
        assert pair.rc.pci.binding(tap).error.startswith("0000:01:00.0: no usable COMMON, NOTIFY, ISR structure")
        assert pair.rc.virtio.bindings == ()
        assert len(tap.log) < 64 * 24


@pytest.mark.virtio("PCI-DRV-11", "PCI-DRV-23", "PCI-DRV-24")
async def test_a_driver_writes_nothing_in_configuration_space_but_the_command_register() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        pair.function.config_write(4, 2, pair.function.config_read(4, 2) & ~4)  # so that there is something to write
        await bind(pair, tap)
        await pair.reset()
        assert {a.offset for a in tap.log if a.bar == CONFIG and a.write} == {4}


# Common configuration


@pytest.mark.virtio("PCI-DEV-12", "PCI-DEV-13")
async def test_features_show_in_words_whatever_is_selected() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        offered, accepted = pair.vhost.device_features, pair.vhost.driver_features
        assert accepted == offered
        for select in (0, 1, 2, 3, 4, 31, 0xFFFF, 0x1_0000, 0x8000_0000, 0xFFFF_FFFF):
            driver.write(Common.DEVICE_FEATURE_SELECT, select)
            driver.write(Common.DRIVER_FEATURE_SELECT, select)
            assert driver.read(Common.DEVICE_FEATURE) == (word(offered, select) if select < 2 else 0)
            assert driver.read(Common.DRIVER_FEATURE) == (word(accepted, select) if select < 2 else 0)


@pytest.mark.virtio("PCI-DEV-7")
@pytest.mark.parametrize("field", WIDE, ids=lambda field: field.name)
async def test_halves_of_a_wide_field_are_written_and_read_on_their_own(field: Common) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        at = driver.structures[CfgType.COMMON].offset + field
        read, write = driver.function.bar_read, driver.function.bar_write
        write(0, at + 4, 4, 0x01234567)
        assert (read(0, at, 8), read(0, at, 4), read(0, at + 4, 4)) == (0x01234567_00000000, 0, 0x01234567)
        write(0, at, 4, 0x89ABCDEF)
        assert read(0, at, 8) == 0x01234567_89ABCDEF
        write(0, at, 8, 0xFEDCBA98_76543210)
        assert (read(0, at, 4), read(0, at + 4, 4)) == (0x76543210, 0xFEDCBA98)
        for offset, size in ((at + 1, 4), (at + 2, 4), (at, 2), (at, 1), (at + 3, 1)):  # neither half
            assert read(0, offset, size) == 0
            write(0, offset, size, 0)
        assert read(0, at, 8) == 0xFEDCBA98_76543210


@pytest.mark.virtio("PCI-DEV-23")
async def test_common_fields_have_their_own_size_and_no_other() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.negotiate()
        at = driver.structures[CfgType.COMMON].offset
        for field in Common:
            for size in (1, 2, 4, 8):
                if size != SIZES[field] and not (field in WIDE and size == 4):
                    assert driver.function.bar_read(0, at + field, size) == 0
                    driver.function.bar_write(0, at + field, size, 0)
        assert driver.status
        assert driver.read(Common.QUEUE_SIZE) == 16


# Interrupts


@pytest.mark.virtio("PCI-DRV-25", "PCI-DRV-26", "PCI-DRV-34")
@pytest.mark.parametrize("vectors", [0, 1, 2, 3])
async def test_the_driver_works_with_any_number_of_vectors(vectors: int) -> None:
    """None is INTx, one means both at once, two are shared by the queues, three are enough."""
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        tap.max_vectors = vectors
        await bind(pair, tap)
        await pair.transfer(1 << 17)
        assert pair.driver_port.carrier
        config = pair.vhost.config
        pair.vhost.set_config(config[:6] + b"\0\0" + config[8:])
        await until(lambda: not pair.driver_port.carrier)
        pair.vhost.set_config(config)
        await until(lambda: pair.driver_port.carrier)
        given = [v for f, v, w in tap.common() if w and f in {Common.CONFIG_MSIX_VECTOR, Common.QUEUE_MSIX_VECTOR}]
        assert given == [[], [0, 0, 0], [0, 1, 1], [0, 1, 2]][vectors]
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


async def one_of_each(driver: HostileDriver) -> None:
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
async def test_an_event_without_a_vector_interrupts_nobody() -> None:
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


def isr(driver: HostileDriver) -> int:
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
            RegisterAccess(notify.bar, notify.offset + queue * notify.multiplier, 2, queue, True) for queue in (0, 1)
        }


@pytest.mark.parametrize("multiplier", [0, 2, 4, 64])
async def test_the_driver_uses_the_multiplier_that_it_is_told(multiplier: int) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), tapped(pair) as tap:
        at, _ = capabilities(tap.config_read)[CfgType.NOTIFY]
        overlay(tap, at + 16, multiplier.to_bytes(4, "little"))
        notify = tap.structures[CfgType.NOTIFY]
        tap.on_write = lambda a: pair.vhost.kick(a.value) if a in tap.within(CfgType.NOTIFY) else None
        await bind(pair, tap)
        await pair.transfer(1 << 14)
        places = {a.offset - notify.offset for a in tap.within(CfgType.NOTIFY)}
        assert places <= {0, multiplier}
        assert multiplier in places


# Access through configuration space


@attrs.define
class Through:
    """The capability that reaches BARs."""

    pair: Pair
    at: int

    def aim(self, bar: int, offset: int, length: int) -> None:
        write = self.pair.function.config_write
        write(self.at + 4, 1, bar)
        write(self.at + 8, 4, offset)
        write(self.at + 12, 4, length)

    def read(self, bar: int, offset: int, length: int, size: int | None = None) -> int:
        self.aim(bar, offset, length)
        return self.pair.function.config_read(self.at + 16, size or length)

    def write(self, bar: int, offset: int, length: int, value: int, size: int | None = None) -> None:
        self.aim(bar, offset, length)
        self.pair.function.config_write(self.at + 16, size or length, value)


def through(pair: Pair) -> Through:
    return Through(pair, capabilities(pair.function.config_read)[CfgType.PCI][0])


@pytest.mark.virtio("PCI-DEV-47", "PCI-DEV-48", "PCI-DEV-49")
async def test_a_device_is_brought_up_and_kicked_through_configuration_space_alone() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        door = through(pair)

        def read(field: Common) -> int:
            size = SIZES[field]
            if size < 8:
                return door.read(0, field, size)
            return door.read(0, field, 4) | door.read(0, field + 4, 4) << 32

        def write(field: Common, value: int) -> None:
            for at in range(0, SIZES[field], 4):
                door.write(0, field + at, min(4, SIZES[field]), value >> 8 * at & 0xFFFF_FFFF)

        driver.read, driver.write = read, write  # type: ignore[method-assign]
        await driver.start()
        frame = driver.put(bytes(12) + FRAME)
        driver.rings[1].chain(0, Desc(frame, 12 + len(FRAME)))
        driver.rings[1].offer(0)
        door.write(0, driver.structures[CfgType.NOTIFY].offset + 4, 2, 1)
        assert (await pair.device_port.receive())[1] == FRAME
        assert door.read(0, driver.structures[CfgType.DEVICE].offset + 10, 2) == 1500
        del driver.read, driver.write


@pytest.mark.hostile("S08")
@pytest.mark.parametrize(
    ("bar", "offset", "length", "size"),
    [
        (1, 0x14, 1, 1),
        (6, 0x14, 1, 1),
        (255, 0x14, 1, 1),
        (0, 0x14, 0, 1),
        (0, 0x14, 3, 4),
        (0, 0x14, 8, 4),
        (0, 0x14, 0xFFFF_FFFF, 4),
        (0, 0x13, 2, 2),
        (0, 0x12, 4, 4),
        (0, 0x3FFE, 4, 4),
        (0, 0x4000, 4, 4),
        (0, 0xFFFF_FFFC, 4, 4),
        (0, 0x14, 4, 1),  # less of it is accessed than it is to be
    ],
)
async def test_access_through_configuration_space_with_bad_fields_reads_zero_and_writes_nothing(
    bar: int, offset: int, length: int, size: int
) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair) as driver:
        await driver.start()
        door = through(pair)
        assert door.read(bar, offset, length, size) == 0
        door.write(bar, offset, length, 0, size)
        door.write(bar, offset, length, 0xFFFF_FFFF, size)
        assert driver.status == 0x0F


async def test_the_rest_of_the_capability_is_read_only() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), hostile_driver(pair):
        at, body = capabilities(pair.function.config_read)[CfgType.PCI]
        for offset, size in ((0, 2), (0, 4), (2, 2), (2, 1), (3, 1), (5, 1), (6, 2)):
            pair.function.config_write(at + offset, size, 0xFFFF_FFFF)
        assert capabilities(pair.function.config_read)[CfgType.PCI] == (at, body)


async def test_two_functions_of_one_endpoint_are_two_devices() -> None:
    async with open_pair(attrs.evolve(SMALL, devices=3)) as pair, unharmed(pair):
        for name in pair.world.devices:
            await pair.transfer(1 << 14, name)
        assert pair.function.config_read(0x0E, 1) == 0x80
        assert [f.name for f in pair.rc.rc.functions] == [f"0000:01:00.{i}" for i in range(3)]
        with bounded():
            pair.vhost.fail("one of them")
            await until(lambda: pair.virtio.restarts == 1 and pair.device.up)
        assert [d.vhost.resets > 1 for d in pair.world.devices.values()] == [True, False, False]
