"""Commands of a disk: what PYSCSI asks for is answered as PYSCSI reads it, and what can't be has the right sense."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.devices.scsi import Asc, Key, LogicalUnit, Lun, Response, ScsiDomain
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import COMMANDS, Op
from drivers.devices.scsi.device.inquiry import PAGES
from drivers.devices.scsi.device.unit import Io
from drivers.devices.scsi.layout import REPORT_LUNS, WELL_KNOWN
from drivers.storage.workers import IoKind
from support.rigs.scsi import BLOCKS, check, make_unit, perform, pyscsi


@pytest.fixture
def unit() -> LogicalUnit:
    return make_unit()


def illegal(found: dict[str, Any], asc: Asc, field: tuple[int, int | None, str] | None = None) -> None:
    assert (found["sense_key"], found["ascq"]) == (Key.ILLEGAL_REQUEST, asc)
    if field is not None:
        assert found["field"] == field


# What it says of itself


@pytest.mark.virtio("SCSI-DEV-28")  # no unit is an MMC device, of which changes must not be told
def test_standard_inquiry_data_are_those_of_a_disk(unit: LogicalUnit) -> None:
    found = pyscsi(unit).inquiry().result
    assert (found["peripheral_qualifier"], found["peripheral_device_type"], found["rmb"]) == (0, 0, 0)
    assert (found["version"], found["response_data_format"], found["cmdque"]) == (6, 2, 1)
    assert bytes(found["t10_vendor_identification"]) == b"VNET    "
    assert bytes(found["product_identification"]) == b"VIRTIO DISK     "
    assert found["additional_length"] == 91


def test_vital_product_data_are_what_pyscsi_reads(unit: LogicalUnit) -> None:
    scsi = pyscsi(unit)

    def page(code: int) -> dict[str, Any]:
        found: dict[str, Any] = scsi.inquiry(evpd=1, page_code=code, alloclen=255).result
        assert found["page_code"] == code
        return found

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
    found = scsi.readcapacity16().result
    assert (found["returned_lba"], found["block_length"]) == (BLOCKS - 1, block)
    assert (found["lbppbe"], found["lbpme"], found["lbprz"]) == ((4096 // block).bit_length() - 1, 1, 1)


def test_a_disk_of_more_than_32_bits_of_blocks_says_so() -> None:
    unit = make_unit()
    unit.store.info = attrs.evolve(unit.store.info, size=1 << 42)  # type: ignore[misc]
    assert perform(unit, bytes((Op.READ_CAPACITY_10,)), room=8)[0][:4] == b"\xff" * 4
    assert int.from_bytes(perform(unit, commands.read_capacity(), room=32)[0][:8], "big") == (1 << 33) - 1
    far = check_pointer(unit, commands.read(1 << 33, 1))
    assert far["valid"] == 0  # no room for that address in fixed sense
    assert perform(unit, commands.mode_sense(0x3F), room=252)[1] is None


def check_pointer(unit: LogicalUnit, cdb: bytes) -> dict[str, Any]:
    found = check(unit, cdb)
    illegal(found, Asc.LBA_OUT_OF_RANGE)
    return found


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


def select(data: bytes, *, short: bool = False, flags: int = 0x10) -> bytes:
    if short:
        return bytes((Op.MODE_SELECT_6, flags, 0, 0, len(data), 0))
    return bytes((Op.MODE_SELECT_10, flags, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0"


CACHING = bytes((0x08, 18, 0)) + bytes(17)


@pytest.mark.parametrize("short", [True, False])
def test_an_initiator_switches_the_write_cache_off_and_on(unit: LogicalUnit, short: bool) -> None:
    header = bytes(4) if short else bytes(8)

    def stable() -> bool:
        found = unit.perform(commands.write(0, 1).ljust(32, b"\0"), [memoryview(bytes(512))], 0)
        assert isinstance(found, Io)
        return found.stable

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


# Commands about the medium


def test_unmap_and_write_same_give_blocks_up_and_read_as_zeroes(unit: LogicalUnit) -> None:
    unit.store.data[:] = b"x" * len(unit.store.data)  # type: ignore[attr-defined]
    cdb, data = commands.unmap((0, 4), (10, 0), (2000, 48))
    found = unit.perform(cdb.ljust(32, b"\0"), [memoryview(data)], 0)
    assert isinstance(found, Io)
    assert (found.kind, [(e.offset, e.size, e.unmap) for e in found.extents]) == (
        IoKind.WRITE_ZEROES,
        [(0, 2048, True), (2000 * 512, 48 * 512, True)],
    )
    perform(unit, cdb, data)
    assert unit.store.data[:2049] == bytes(2048) + b"x"  # type: ignore[attr-defined]
    for unmap in (True, False):
        found = unit.perform(commands.write_same(9, 3, unmap=unmap).ljust(32, b"\0"), [memoryview(bytes(512))], 0)
        assert isinstance(found, Io)
        assert [(e.offset, e.size, e.unmap) for e in found.extents] == [(9 * 512, 3 * 512, unmap)]
    patterned = unit.perform(commands.write_same(9, 3, unmap=True).ljust(32, b"\0"), [memoryview(b"p" * 512)], 0)
    assert isinstance(patterned, Io)
    assert (patterned.kind, patterned.pattern) == (IoKind.FILL, b"p" * 512)


def row(lba: int, count: int) -> bytes:
    return lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(4)


BAD_UNMAPS = [
    pytest.param(bytes(7), Asc.PARAMETER_LIST_LENGTH_ERROR, id="short"),
    pytest.param(commands.unmap(*[(0, 1)] * 65)[1], Asc.INVALID_FIELD_IN_PARAMETER_LIST, id="too many rows"),
    pytest.param(commands.unmap((BLOCKS, 1))[1], Asc.LBA_OUT_OF_RANGE, id="beyond"),
    pytest.param(commands.unmap((0, 1), (BLOCKS - 1, 2))[1], Asc.LBA_OUT_OF_RANGE, id="half beyond"),
    pytest.param(commands.unmap(((1 << 64) - 1, 0xFFFF_FFFF))[1], Asc.LBA_OUT_OF_RANGE, id="wraps"),
]


@pytest.mark.parametrize(("data", "asc"), BAD_UNMAPS)
def test_an_unmap_that_can_not_be_does_nothing(unit: LogicalUnit, data: bytes, asc: Asc) -> None:
    unit.store.data[:] = b"x" * len(unit.store.data)  # type: ignore[attr-defined]
    cdb = bytes((Op.UNMAP, 0, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0"
    illegal(check(unit, cdb, data), asc)


def test_unmap_of_more_than_the_limit_is_refused_and_of_nothing_is_good() -> None:
    unit = make_unit()
    unit.store.info = attrs.evolve(unit.store.info, size=1 << 42)  # type: ignore[misc]
    cdb, data = commands.unmap((0, 1 << 20), (0, (1 << 20) + 1))
    illegal(check(unit, cdb, data), Asc.INVALID_FIELD_IN_PARAMETER_LIST, (32, 7, ""))
    illegal(check(unit, commands.write_same(0, (1 << 21) + 1), bytes(512)), Asc.INVALID_FIELD_IN_CDB, (10, 7, "cdb"))
    illegal(check(unit, commands.read(0, 8193)), Asc.INVALID_FIELD_IN_CDB, (10, 7, "cdb"))
    assert perform(unit, *commands.unmap()) == (b"", None)
    assert perform(unit, bytes((Op.UNMAP,))) == (b"", None)


def test_verify_compares_with_what_came_or_only_reads(unit: LogicalUnit) -> None:
    def verify(check: int, count: int, out: int) -> Io:
        cdb = bytes((Op.VERIFY_10, check << 1, 0, 0, 0, 4, 0, 0, count, 0)).ljust(32, b"\0")
        found = unit.perform(cdb, [memoryview(bytes(out))], 0)
        assert isinstance(found, Io)
        return found

    assert verify(0, 3, 0) == Io(IoKind.READ, 2048, 1536)
    assert (verify(1, 3, 1536).kind, verify(1, 3, 1536).out_used) == (IoKind.COMPARE, 1536)
    assert (verify(3, 3, 512).size, verify(3, 3, 512).out_used) == (1536, 512)
    illegal(check(unit, bytes((Op.VERIFY_16, 4)).ljust(16, b"\0")), Asc.INVALID_FIELD_IN_CDB, (1, 2, "cdb"))
    assert perform(unit, bytes((Op.VERIFY_12,)).ljust(12, b"\0")) == (b"", None)


def test_fua_and_synchronize_cache_reach_the_store(unit: LogicalUnit) -> None:
    def io(cdb: bytes, out: int = 0, room: int = 0) -> Io:
        found = unit.perform(cdb.ljust(32, b"\0"), [memoryview(bytes(out))], room)
        assert isinstance(found, Io)
        return found

    assert io(commands.write(0, 1, fua=True), 512).stable
    assert io(commands.read(0, 1, fua=True), room=512).stable
    assert io(commands.synchronize_cache()).kind is IoKind.FLUSH
    assert io(bytes((Op.SYNCHRONIZE_CACHE_10, 0, 0, 0, 7, 255, 0, 0, 1, 0))).kind is IoKind.FLUSH
    illegal(check(unit, bytes((Op.SYNCHRONIZE_CACHE_10, 0, 0, 0, 8, 1, 0, 0, 0, 0))), Asc.LBA_OUT_OF_RANGE)


def test_a_stopped_unit_is_not_ready_until_it_is_started(unit: LogicalUnit) -> None:
    stop, start = bytes((Op.START_STOP_UNIT, 0, 0, 0, 0, 0)), bytes((Op.START_STOP_UNIT, 1, 0, 0, 1, 0))
    found = unit.perform(stop.ljust(32, b"\0"), [], 0)
    assert isinstance(found, Io)
    assert found.kind is IoKind.FLUSH
    for cdb in (commands.unit_ready(), commands.read(0, 1), commands.write(0, 1), commands.read_capacity()):
        sense = check(unit, cdb, bytes(512))
        assert (sense["sense_key"], sense["ascq"]) == (Key.NOT_READY, Asc.INITIALIZING_COMMAND_REQUIRED)
    assert perform(unit, commands.inquiry(), room=96)[1] is None
    assert perform(unit, start) == (b"", None)
    assert perform(unit, commands.unit_ready()) == (b"", None)
    assert perform(unit, bytes((Op.START_STOP_UNIT, 0, 0, 0, 4, 0))) == (b"", None)  # without flushing
    illegal(check(unit, bytes((Op.START_STOP_UNIT, 0, 0, 0, 2, 0))), Asc.INVALID_FIELD_IN_CDB, (4, 1, "cdb"))


def test_a_read_only_unit_is_protected() -> None:
    unit = make_unit(read_only=True)
    cdb, data = commands.unmap((0, 1))
    for change, out in (
        (commands.write(0, 1), bytes(512)),
        (commands.write_same(0, 1), bytes(512)),
        (cdb, data),
        (bytes((Op.WRITE_6, 0, 0, 0, 1, 0)), bytes(512)),
    ):
        sense = check(unit, change, out)
        assert (sense["sense_key"], sense["ascq"]) == (Key.DATA_PROTECT, Asc.WRITE_PROTECTED)
    assert perform(unit, commands.read(0, 1), room=512) == (bytes(512), None)


# What can't be

BAD_CDBS = [
    pytest.param("00 00 00 00 00 04", Asc.INVALID_FIELD_IN_CDB, (5, 2, "cdb"), id="NACA"),
    pytest.param("00 80 00 00 00 00", Asc.INVALID_FIELD_IN_CDB, (1, 7, "cdb"), id="a LUN in the CDB"),
    pytest.param("12 00 80 00 ff 00", Asc.INVALID_FIELD_IN_CDB, (2, 7, "cdb"), id="page without EVPD"),
    pytest.param("12 01 c0 00 ff 00", Asc.INVALID_FIELD_IN_CDB, (2, 7, "cdb"), id="no such VPD page"),
    pytest.param("12 02 00 00 ff 00", Asc.INVALID_FIELD_IN_CDB, (1, 1, "cdb"), id="CMDDT"),
    pytest.param("03 01 00 00 ff 00", Asc.INVALID_FIELD_IN_CDB, (1, 0, "cdb"), id="descriptor sense"),
    pytest.param("1a 00 1c 00 ff 00", Asc.INVALID_FIELD_IN_CDB, (2, 5, "cdb"), id="no such mode page"),
    pytest.param("1a 00 08 01 ff 00", Asc.INVALID_FIELD_IN_CDB, (3, 7, "cdb"), id="no such subpage"),
    pytest.param("1a 00 c8 00 ff 00", Asc.SAVING_PARAMETERS_NOT_SUPPORTED, (2, 7, "cdb"), id="saved"),
    pytest.param("28 20 00000000 00 0001 00", Asc.INVALID_FIELD_IN_CDB, (1, 5, "cdb"), id="RDPROTECT"),
    pytest.param("28 00 00000800 00 0001 00", Asc.LBA_OUT_OF_RANGE, None, id="beyond"),
    pytest.param("28 00 000007ff 00 0002 00", Asc.LBA_OUT_OF_RANGE, None, id="half beyond"),
    pytest.param("28 00 00000801 00 0000 00", Asc.LBA_OUT_OF_RANGE, None, id="nothing, beyond"),
    pytest.param("88 00 ffffffffffffffff ffffffff 00 00", Asc.LBA_OUT_OF_RANGE, None, id="wraps"),
    pytest.param("2a 20 00000000 00 0001 00", Asc.INVALID_FIELD_IN_CDB, (1, 5, "cdb"), id="WRPROTECT"),
    pytest.param("35 02 00000000 00 0000 00", Asc.INVALID_FIELD_IN_CDB, (1, 1, "cdb"), id="IMMED"),
    pytest.param("41 10 00000000 00 0001 00", Asc.INVALID_FIELD_IN_CDB, (1, 4, "cdb"), id="ANCHOR"),
    pytest.param("41 00 00000000 00 0000 00", Asc.INVALID_FIELD_IN_CDB, (7, 7, "cdb"), id="WRITE SAME to the end"),
    pytest.param("93 00 0000000000000000 00000000 00 00", Asc.INVALID_FIELD_IN_CDB, (10, 7, "cdb"), id="likewise"),
    pytest.param("5e 00 00 00 00 00 00 0008 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="PR IN"),
    pytest.param("5f 00 00 00 00 00 00 0018 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="PR OUT"),
    pytest.param("16 00 00 00 00 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="RESERVE"),
    pytest.param("7f 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="variable length"),
    pytest.param("9e 12 00", Asc.INVALID_FIELD_IN_CDB, (1, 4, "cdb"), id="no such service action"),
    pytest.param("a0 00 03 000000 00000010 00 00", Asc.INVALID_FIELD_IN_CDB, (2, 7, "cdb"), id="SELECT REPORT"),
    pytest.param("a3 0c 04 00 0000 00000010 00 00", Asc.INVALID_FIELD_IN_CDB, (2, 2, "cdb"), id="reporting options"),
    pytest.param("a3 0c 01 9e 0000 00000010 00 00", Asc.INVALID_FIELD_IN_CDB, (2, 2, "cdb"), id="lacks the action"),
]


@pytest.mark.hostile("K01")
@pytest.mark.parametrize(("cdb", "asc", "field"), BAD_CDBS)
def test_a_bad_cdb_gets_the_sense_that_says_where(
    unit: LogicalUnit, cdb: str, asc: Asc, field: tuple[int, int | None, str] | None
) -> None:
    illegal(check(unit, bytes.fromhex(cdb), bytes(1 << 16)), asc, field)


def test_lba_out_of_range_says_which(unit: LogicalUnit) -> None:
    assert check(unit, commands.read(BLOCKS - 1, 5))["information"] == BLOCKS
    assert check(unit, commands.read(BLOCKS + 7, 5))["information"] == BLOCKS + 7


OVERRUNS = [
    pytest.param(commands.inquiry(96), b"", 95, id="INQUIRY"),
    pytest.param(commands.read(0, 2), b"", 1023, id="READ"),
    pytest.param(commands.write(0, 2), bytes(1023), 0, id="WRITE"),
    pytest.param(commands.write(0, 2), b"", 4096, id="WRITE into a buffer"),
    pytest.param(commands.read_capacity(), b"", 31, id="READ CAPACITY"),
    pytest.param(bytes((Op.READ_CAPACITY_10,)), b"", 7, id="READ CAPACITY (10)"),
    pytest.param(commands.write_same(0, 5), bytes(511), 0, id="WRITE SAME", marks=pytest.mark.hostile("K02")),
    pytest.param(commands.unmap((0, 1))[0], bytes(8), 0, id="UNMAP"),
    pytest.param(select(bytes(28)), bytes(27), 0, id="MODE SELECT"),
    pytest.param(commands.mode_sense(8, 100), b"", 99, id="MODE SENSE"),
    pytest.param(bytes((Op.VERIFY_10, 2, 0, 0, 0, 0, 0, 0, 2, 0)), bytes(1000), 0, id="VERIFY"),
    pytest.param(bytes((Op.REQUEST_SENSE, 0, 0, 0, 18, 0)), b"", 17, id="REQUEST SENSE"),
]


@pytest.mark.virtio("SCSI-DEV-10")
@pytest.mark.parametrize(("cdb", "out", "room"), OVERRUNS)
def test_buffers_that_are_smaller_than_the_cdb_asks_for_are_an_overrun(
    unit: LogicalUnit, cdb: bytes, out: bytes, room: int
) -> None:
    before, mode = bytes(unit.store.data), unit.mode  # type: ignore[attr-defined]
    found = unit.perform(cdb.ljust(32, b"\0"), [memoryview(out)] if out else [], room)
    assert found is Response.OVERRUN
    assert (unit.store.data, unit.mode) == (before, mode)  # type: ignore[attr-defined]


@given(st.binary(min_size=16, max_size=32), st.binary(max_size=600), st.integers(0, 600))
def test_whatever_comes_ends_with_a_value(cdb: bytes, out: bytes, room: int) -> None:
    unit = make_unit(blocks=64)
    for opcode in (cdb[0], *Op):
        found = unit.perform(bytes((opcode,)) + cdb[1:], [memoryview(out)], room)
        if isinstance(found, Io):
            assert 0 <= found.offset <= found.offset + found.size <= 64 * 512
            assert all(0 <= e.offset <= e.offset + e.size <= 64 * 512 for e in found.extents)
            assert found.in_size <= room
            assert found.out_used <= len(out)


# Attention


def test_a_unit_attention_is_told_once_before_anything_else_is_done(unit: LogicalUnit) -> None:
    unit.reset(Asc.POWER_ON_OR_RESET)
    unit.attention(Asc.CAPACITY_DATA_HAS_CHANGED)
    unit.attention(Asc.CAPACITY_DATA_HAS_CHANGED)
    assert perform(unit, commands.inquiry(), room=96)[1] is None
    assert perform(unit, commands.report_luns(16), room=16)[1] is None
    for asc in (Asc.POWER_ON_OR_RESET, Asc.CAPACITY_DATA_HAS_CHANGED):
        sense = check(unit, bytes((0x5E,)))  # even where the command does not exist
        assert (sense["sense_key"], sense["ascq"]) == (Key.UNIT_ATTENTION, asc)
    assert perform(unit, commands.unit_ready()) == (b"", None)


def test_request_sense_tells_what_waits_and_else_nothing(unit: LogicalUnit) -> None:
    cdb = bytes((Op.REQUEST_SENSE, 0, 0, 0, 252, 0))
    unit.attention(Asc.BUS_DEVICE_RESET)
    first, second = (perform(unit, cdb, room=252)[0] for _ in range(2))
    assert (first[2], first[12:14]) == (Key.UNIT_ATTENTION, b"\x29\x03")
    assert (second[0], second[2], second[7], second[12:14]) == (0x70, 0, 10, b"\0\0")
    assert perform(unit, cdb[:4] + b"\4\0", room=4)[0] == second[:4]


# Which commands there are


def test_the_table_of_commands_is_what_the_unit_reports(unit: LogicalUnit) -> None:
    data = perform(unit, bytes.fromhex("a3 0c 00 00 0000 00010000 00 00"), room=1 << 16)[0]
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    rows = [data[at : at + 8] for at in range(4, len(data), 8)]
    assert {row[0] for row in rows} == {opcode for opcode, _ in COMMANDS}
    for row_ in rows:
        has_action, action = row_[5] & 1, int.from_bytes(row_[2:4], "big")
        one = bytes((0xA3, 0x0C, 2 if has_action else 1, row_[0])) + action.to_bytes(2, "big") + b"\0\0\1\0\0\0"
        found = perform(unit, one, room=256)[0]
        assert found[1] == 3
        assert found[4:] == COMMANDS[row_[0], action if has_action else None].usage
        assert len(found) - 4 == int.from_bytes(found[2:4], "big") == int.from_bytes(row_[6:8], "big")
    assert perform(unit, bytes.fromhex("a3 0c 01 5e 0000 00000100 00 00"), room=256)[0] == b"\0\1\0\0"
    assert perform(unit, bytes.fromhex("a3 0c 03 9e 0010 00000100 00 00"), room=256)[0][1] == 3
    assert perform(unit, bytes.fromhex("a3 0d 00 000000 00000010 00 00"), room=16)[0] == b"\xdc\3\0\0"


# Domains


def test_report_luns_lists_the_units_of_a_target_or_of_all() -> None:
    places = [Lun(0, 0), Lun(0, 5), Lun(0, 300), Lun(3, 1)]
    domain = ScsiDomain({place: make_unit(blocks=8) for place in places})

    def luns(at: Lun, select: int = 0) -> list[int]:
        unit = domain.find(at)
        cdb = bytearray(commands.report_luns(4096))
        cdb[2] = select
        assert unit is not None
        data, sense = perform(unit, bytes(cdb), room=4096)  # PYSCSI 2.1 cuts the last LUN in half
        assert sense is None
        assert int.from_bytes(data[:4], "big") == len(data) - 8
        return [int.from_bytes(data[i : i + 8], "big") for i in range(8, len(data), 8)]

    own = [0, 5 << 48, 0x412C << 48]
    for at in (Lun(0, 0), Lun(0, 77), Lun(0, WELL_KNOWN)):
        assert luns(at) == luns(at, 2) == own
        assert luns(at, 1) == []
    assert luns(Lun(3, 0)) == [1 << 48]
    everything = [int.from_bytes(place.emit_reported(), "big") for place in places]
    assert luns(REPORT_LUNS) == everything
    assert [Lun.parse(value.to_bytes(8, "big")) for value in everything] == places


def test_where_no_unit_is_a_target_says_so_and_nothing_else_works() -> None:
    domain = ScsiDomain({Lun(0, 1): make_unit()})
    absent = domain.find(Lun(0, 0))
    assert absent is not None
    assert pyscsi(absent).inquiry().result["peripheral_qualifier"] == 3
    illegal(check(absent, commands.inquiry(255, 0x80)), Asc.INVALID_FIELD_IN_CDB)
    assert perform(absent, bytes((3, 0, 0, 0, 18, 0)), room=18)[0][12] == 0x25
    for cdb in (commands.unit_ready(), commands.read(0, 1), commands.read_capacity(), b"\x5e"):
        illegal(check(absent, cdb), Asc.LOGICAL_UNIT_NOT_SUPPORTED)
    well_known = domain.find(REPORT_LUNS)
    assert well_known is not None
    assert pyscsi(well_known).inquiry().result["peripheral_device_type"] == 0x1E
    assert perform(well_known, commands.unit_ready()) == (b"", None)
    illegal(check(well_known, commands.read(0, 1)), Asc.INVALID_COMMAND_OPERATION_CODE)
    assert domain.find(Lun(1, 0)) is None
    for place in (Lun(256, 0), Lun(0, 16384), Lun(-1, 0)):
        with pytest.raises(ValueError, match="no valid address"):
            domain.add(place, make_unit())
    with pytest.raises(ValueError, match="0:1: there is already a logical unit"):
        domain.add(Lun(0, 1), make_unit())


def test_cdbs_that_are_made_here_are_those_of_pyscsi(unit: LogicalUnit) -> None:
    scsi = pyscsi(unit)
    assert commands.inquiry(96) == bytes(scsi.inquiry(alloclen=96).cdb)
    assert commands.inquiry(255, 0x83) == bytes(scsi.inquiry(evpd=1, page_code=0x83, alloclen=255).cdb)
    assert commands.read_capacity() == bytes(scsi.readcapacity16().cdb)
    assert commands.read(9, 8, fua=True) == bytes(scsi.read16(9, 8, fua=1).cdb)
    assert commands.write(9, 1) == bytes(scsi.write16(9, 1, bytearray(512)).cdb)
    assert commands.write_same(9, 3, unmap=True, zeroes=True) == bytes(
        scsi.writesame16(9, 3, None, unmap=1, ndob=1).cdb
    )
    assert commands.mode_sense(0x0A, 96) == bytes(scsi.modesense10(page_code=0x0A, dbd=1, alloclen=96).cdb)
    assert commands.report_luns(96) == bytes(scsi.reportluns(alloclen=96).cdb)
    assert commands.unit_ready() == bytes(scsi.testunitready().cdb)
