"""INQUIRY and MODE SENSE of a disk: PYSCSI parses what the disk answers."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from drivers.devices.scsi import Asc, LogicalUnit
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.device.inquiry import PAGES
from drivers.devices.scsi.device.unit import Io
from support.rigs.scsi import BLOCKS, check, illegal, make_unit, perform, pyscsi, select, unit

__all__ = ["unit"]  # a fixture


def test_standard_inquiry_data_are_those_of_a_disk(unit: LogicalUnit) -> None:
    actual = pyscsi(unit).inquiry().result
    assert (actual["peripheral_qualifier"], actual["peripheral_device_type"], actual["rmb"]) == (0, 0, 0)
    assert (actual["version"], actual["response_data_format"], actual["cmdque"]) == (6, 2, 1)
    assert bytes(actual["t10_vendor_identification"]) == b"VNET    "
    assert bytes(actual["product_identification"]) == b"VIRTIO DISK     "
    assert actual["additional_length"] == 91


def test_vital_product_data_are_what_pyscsi_reads(unit: LogicalUnit) -> None:
    scsi = pyscsi(unit)

    def page(code: int) -> dict[str, Any]:
        actual: dict[str, Any] = scsi.inquiry(evpd=1, page_code=code, alloclen=255).result
        assert actual["page_code"] == code
        return actual

    assert page(0x00)["vpd_pages"] == sorted(PAGES) == [0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]
    assert bytes(page(0x80)["unit_serial_number"]) == b"serial-1"
    names = page(0x83)["designator_descriptors"]
    assert [(name["designator_type"], name["code_set"], name["association"]) for name in names] == [
        (1, 2, 0),
        (3, 1, 0),
    ]
    assert names[1]["designator"]["naa"] == 3
    limits = page(0xB0)
    assert (limits["wsnz"], limits["max_xfer_len"], limits["opt_unmap_gran"]) == (1, 8192, 8)
    assert (limits["max_unmap_lba_count"], limits["max_unmap_bd_count"]) == ((1 << 30) // 512, 64)
    assert page(0xB1)["medium_rotation_rate"] == 1
    provisioning = page(0xB2)
    assert [provisioning[bit] for bit in ("lbpu", "lpbws", "lbpws10", "lbprz")] == [1, 1, 1, 1]
    assert provisioning["provisioning_type"] == 2


def test_names_differ_where_serial_numbers_do() -> None:
    def name(serial: str) -> bytes:
        unit = make_unit()
        unit.identity = attrs.evolve(unit.identity, serial=serial)
        return perform(unit, commands.inquiry(255, 0x83), room=255)[0]

    assert name("a") == name("a") != name("b")


@pytest.mark.parametrize("block", [512, 4096])
def test_capacity_is_that_of_the_store(block: int) -> None:
    scsi = pyscsi(make_unit(block=block), block)
    assert scsi.readcapacity10().result == {"returned_lba": BLOCKS - 1, "block_length": block}
    actual = scsi.readcapacity16().result
    assert (actual["returned_lba"], actual["block_length"]) == (BLOCKS - 1, block)
    assert (actual["lbppbe"], actual["lbpme"], actual["lbprz"]) == ((4096 // block).bit_length() - 1, 1, 1)


def test_a_disk_of_more_than_32_bits_of_blocks_says_so() -> None:
    unit = make_unit()
    unit.store.info = attrs.evolve(unit.store.info, size=1 << 42)  # type: ignore[misc]
    assert perform(unit, bytes((Op.READ_CAPACITY_10,)), room=8)[0][:4] == b"\xff" * 4
    assert int.from_bytes(perform(unit, commands.read_capacity(), room=32)[0][:8], "big") == (1 << 33) - 1
    far = check_pointer(unit, commands.read(1 << 33, 1))
    assert far["valid"] == 0  # no room for that address in fixed sense
    assert perform(unit, commands.mode_sense(0x3F), room=252)[1] is None


def check_pointer(unit: LogicalUnit, cdb: bytes) -> dict[str, Any]:
    actual = check(unit, cdb)
    illegal(actual, Asc.LBA_OUT_OF_RANGE)
    return actual


def test_a_store_that_can_not_unmap_promises_nothing_of_that() -> None:
    unit = make_unit()
    unit.store.info = attrs.evolve(unit.store.info, unmaps=False)  # type: ignore[misc]
    scsi = pyscsi(unit)
    assert scsi.readcapacity16().result["lbpme"] == 0
    assert scsi.inquiry(evpd=1, page_code=0xB2).result["lbpu"] == 0
    assert scsi.inquiry(evpd=1, page_code=0xB0, alloclen=64).result["max_unmap_lba_count"] == 0
    cdb, data = commands.unmap((0, 1))
    illegal(check(unit, cdb, data), Asc.INVALID_COMMAND_OPERATION_CODE)
    scsi.writesame16(0, 8, bytearray(512), unmap=1)  # which may be done by writing


@pytest.mark.parametrize("block", [512, 4096])
def test_every_read_and_write_of_pyscsi_moves_its_blocks(block: int) -> None:
    unit = make_unit(block=block)
    scsi = pyscsi(unit, block)
    for i, (write, read) in enumerate(
        [(scsi.write10, scsi.read10), (scsi.write12, scsi.read12), (scsi.write16, scsi.read16)]
    ):
        data = bytearray(bytes([i + 1]) * 3 * block)
        write(7 * i, 3, data, fua=1, dpo=1)
        assert read(7 * i, 3).datain == data
        assert unit.store.data[7 * i * block :][: 3 * block] == data  # type: ignore[attr-defined]
    scsi.writesame10(100, 5, bytearray(b"p" * block))
    scsi.writesame16(110, 5, bytearray(b"q" * block))
    assert bytes(scsi.read10(100, 15).datain) == b"p" * 5 * block + bytes(5 * block) + b"q" * 5 * block
    scsi.writesame16(102, 10, None, ndob=1)
    assert bytes(scsi.read10(100, 15).datain) == b"p" * 2 * block + bytes(10 * block) + b"q" * 3 * block


def test_the_six_byte_commands_move_256_blocks_for_0(unit: LogicalUnit) -> None:
    data = bytes(range(256)) * 512
    assert perform(unit, bytes((Op.WRITE_6, 0, 1, 0, 0, 0)), data) == (b"", None)
    assert perform(unit, bytes((Op.READ_6, 0, 1, 0, 0, 0)), room=len(data)) == (data, None)
    assert perform(unit, bytes((Op.READ_6, 0, 1, 1, 1, 0)), room=512) == (data[512:1024], None)


def test_mode_pages_are_what_pyscsi_reads(unit: LogicalUnit) -> None:
    scsi = pyscsi(unit)
    control = scsi.modesense10(page_code=0x0A).result["mode_pages"][0]
    assert (control["d_sense"], control["tst"], control["queue_algorithm_modifier"]) == (0, 0, 1)
    assert scsi.modesense6(page_code=0x0A).result["mode_pages"][0] == control
    caching = perform(unit, commands.mode_sense(0x08), room=252)[0]
    assert caching[:8] == bytes((0, 26, 0, 0x10, 0, 0, 0, 0))
    assert caching[8:] == bytes((0x08, 18, 0x04)) + bytes(17)
    changeable = perform(unit, commands.mode_sense(0x48), room=252)[0]
    assert changeable[8:] == caching[8:]
    whole = perform(unit, bytes((Op.MODE_SENSE_6, 0, 0x3F, 0, 252, 0)), room=252)[0]
    assert whole[0] == len(whole) - 1
    assert whole[3] == 8
    assert whole[4:12] == BLOCKS.to_bytes(4, "big") + b"\0" + (512).to_bytes(3, "big")
    assert whole[12:] == caching[8:] + perform(unit, commands.mode_sense(0x0A), room=252)[0][8:]
    long = perform(unit, bytes((Op.MODE_SENSE_10, 0x10, 0x3F, 0, 0, 0, 0, 0, 252, 0)), room=252)[0]
    assert (long[4], long[6:8]) == (1, b"\0\x10")
    assert long[8:24] == BLOCKS.to_bytes(8, "big") + bytes(4) + (512).to_bytes(4, "big")
    assert perform(make_unit(read_only=True), commands.mode_sense(0x08), room=252)[0][3] == 0x90


CACHING = bytes((0x08, 18, 0)) + bytes(17)


@pytest.mark.parametrize("short", [True, False])
def test_an_initiator_switches_the_write_cache_off_and_on(unit: LogicalUnit, short: bool) -> None:
    header = bytes(4) if short else bytes(8)

    def stable() -> bool:
        actual = unit.perform(commands.write(0, 1).ljust(32, b"\0"), [memoryview(bytes(512))], 0)
        assert isinstance(actual, Io)
        return actual.stable

    assert not stable()
    data = header + CACHING
    assert perform(unit, select(data, short=short), data) == (b"", None)
    assert stable()
    assert perform(unit, commands.mode_sense(0x08), room=252)[0][10] == 0
    back = header + CACHING[:2] + b"\4" + CACHING[3:]
    assert perform(unit, select(back, short=short), back) == (b"", None)
    assert not stable()
    same = perform(unit, bytes((Op.MODE_SENSE_10, 0, 0x3F, 0, 0, 0, 0, 0, 252, 0)), room=252)[0]
    assert perform(unit, select(same), same) == (b"", None)
    assert perform(unit, select(b""), b"") == (b"", None)


BAD_MODES = [
    pytest.param(bytes(7), Asc.PARAMETER_LIST_LENGTH_ERROR, None, id="short header"),
    pytest.param(bytes(8) + CACHING[:19], Asc.PARAMETER_LIST_LENGTH_ERROR, None, id="cut page"),
    pytest.param(bytes(7) + b"\x08" + bytes(7), Asc.PARAMETER_LIST_LENGTH_ERROR, None, id="cut descriptor"),
    pytest.param(b"\0\0\1" + bytes(5), Asc.INVALID_FIELD_IN_PARAMETER_LIST, (2, None, ""), id="medium type"),
    pytest.param(
        bytes(8) + b"\x1c\x0a" + bytes(10), Asc.INVALID_FIELD_IN_PARAMETER_LIST, (8, 5, ""), id="no such page"
    ),
    pytest.param(bytes(8) + b"\x48" + CACHING[1:], Asc.INVALID_FIELD_IN_PARAMETER_LIST, (8, 5, ""), id="subpage"),
    pytest.param(bytes(8) + b"\x08\x13" + bytes(19), Asc.INVALID_FIELD_IN_PARAMETER_LIST, (9, None, ""), id="length"),
    pytest.param(
        bytes(8) + CACHING[:2] + b"\5" + CACHING[3:], Asc.INVALID_FIELD_IN_PARAMETER_LIST, (10, 0, ""), id="read cache"
    ),
    pytest.param(
        bytes(7) + b"\x08" + BLOCKS.to_bytes(4, "big") + b"\0\0\x10\0",
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        (13, None, ""),
        id="another block size",
        marks=pytest.mark.hostile("K02"),
    ),
    pytest.param(
        bytes(7) + b"\x08" + b"\0\0\0\1\0\0\2\0", Asc.INVALID_FIELD_IN_PARAMETER_LIST, (8, None, ""), id="capacity"
    ),
]


@pytest.mark.parametrize(("data", "asc", "field"), BAD_MODES)
def test_modes_that_can_not_be_are_refused_as_a_whole(
    unit: LogicalUnit, data: bytes, asc: Asc, field: tuple[int, int | None, str] | None
) -> None:
    before = unit.mode
    illegal(check(unit, select(data), data), asc, field)
    assert unit.mode is before
    assert check(unit, select(data, flags=0x11), data)["field"] == (1, 0, "cdb")
    assert check(unit, select(data, flags=0), data)["field"] == (1, 4, "cdb")


@pytest.mark.parametrize(("block", "most"), [(512, 128), (4096, 16), (65536, 1)])
def test_block_limits_have_the_most_blocks_of_a_comparison(block: int, most: int) -> None:
    data, sense = perform(make_unit(block=block, blocks=300), commands.inquiry(page=0xB0), room=96)
    assert sense is None
    assert data[5] == most
    unit = make_unit(block=block, blocks=300)
    assert perform(unit, commands.compare_and_write(0, most), bytes(2 * most * block)) == (b"", None)
    check(unit, commands.compare_and_write(0, most + 1), bytes(2 * (most + 1) * block))
