"""virtio-pci registers: identity, capabilities, common configuration, access through configuration space."""

from __future__ import annotations

import attrs
import pytest

from drivers.testing import CONFIG
from drivers.transports.pci.front import VIRTIO_PCI
from drivers.transports.pci.registers import SIZES, CfgType, Common, Structure
from rings.features import word
from rings.ids import DeviceId
from rings.testing import Desc
from support.rigs.virtio_pci import SMALL, bind, capabilities, count_capabilities
from vnet.testing import (
    FRAME,
    NetPair,
    bounded,
    hostile_driver,
    open_pair,
    tapped,
    unharmed,
    until,
)

CAP_POINTER, STATUS = 0x34, 0x06
VENDOR_CAP = 0x09
WIDE = (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)

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
@pytest.mark.virtio("PCI-DEV-9", "PCI-DEV-30", "PCI-DEV-35", "PCI-DEV-40", "PCI-DEV-41", "PCI-DEV-47")
async def test_each_structure_is_listed_aligned_inside_its_bar_and_large_enough() -> None:
    async with open_pair(SMALL) as pair:
        listed = capabilities(pair.function.config_read)
        assert sorted(listed) == sorted(CfgType)
        assert count_capabilities(pair.function.config_read) == len(listed), "none is there twice, a worse one first"
        assert {kind: len(body) for kind, (_, body) in listed.items()} == {1: 16, 2: 20, 3: 16, 4: 16, 5: 20}
        actual = {kind: Structure.parse(body[2:]) for kind, (_, body) in listed.items()}
        for kind, align in ((CfgType.COMMON, 4), (CfgType.NOTIFY, 2), (CfgType.ISR, 1), (CfgType.DEVICE, 4)):
            structure = actual[kind]
            assert structure.offset % align == 0
            assert 0 < structure.length
            assert structure.offset + structure.length <= pair.function.bar_size(structure.bar)
        assert actual[CfgType.COMMON].length >= 0x38
        notify = actual[CfgType.NOTIFY]
        assert notify.multiplier % 2 == 0
        assert notify.multiplier & (notify.multiplier - 1) == 0
        async with hostile_driver(pair) as driver:
            for queue in range(driver.read(Common.NUM_QUEUES)):
                driver.write(Common.QUEUE_SELECT, queue)
                assert driver.read(Common.QUEUE_NOTIFY_OFF) * notify.multiplier + 2 <= notify.length


# Common configuration


@pytest.mark.virtio("PCI-DEV-12", "PCI-DEV-13")
async def test_features_show_in_words_with_any_selector() -> None:
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


# Access through configuration space


@attrs.define
class Through:
    """The capability that reaches BARs."""

    pair: NetPair
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


def through(pair: NetPair) -> Through:
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
        with bounded():
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
