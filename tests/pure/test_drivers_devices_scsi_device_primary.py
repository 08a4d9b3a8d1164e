"""Primary commands of a logical unit: unit attentions, supported operation codes, and domains."""

from __future__ import annotations

import pytest

from drivers.devices.scsi import Asc, LogicalUnit, Lun, ScsiDomain, SenseKey
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import COMMANDS, Op
from drivers.devices.scsi.layout import REPORT_LUNS, WELL_KNOWN
from support.rigs.scsi import check, illegal, make_unit, perform, pyscsi, unit

__all__ = ["unit"]  # a fixture


# Commands about the medium


def row(lba: int, count: int) -> bytes:
    return lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(4)


# Attention


def test_a_unit_attention_is_reported_once_before_any_command_runs(unit: LogicalUnit) -> None:
    unit.reset(Asc.POWER_ON_OR_RESET)
    unit.attention(Asc.CAPACITY_DATA_HAS_CHANGED)
    unit.attention(Asc.CAPACITY_DATA_HAS_CHANGED)
    assert perform(unit, commands.inquiry(), room=96)[1] is None
    assert perform(unit, commands.report_luns(16), room=16)[1] is None
    for asc in (Asc.POWER_ON_OR_RESET, Asc.CAPACITY_DATA_HAS_CHANGED):
        sense = check(unit, bytes((0x5E,)))  # even where the command does not exist
        assert (sense["sense_key"], sense["ascq"]) == (SenseKey.UNIT_ATTENTION, asc)
    assert perform(unit, commands.unit_ready()) == (b"", None)


def test_request_sense_tells_what_waits_and_else_nothing(unit: LogicalUnit) -> None:
    cdb = bytes((Op.REQUEST_SENSE, 0, 0, 0, 252, 0))
    unit.attention(Asc.BUS_DEVICE_RESET)
    first, second = (perform(unit, cdb, room=252)[0] for _ in range(2))
    assert (first[2], first[12:14]) == (SenseKey.UNIT_ATTENTION, b"\x29\x03")
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
        actual = perform(unit, one, room=256)[0]
        assert actual[1] == 3
        assert actual[4:] == COMMANDS[row_[0], action if has_action else None].usage
        assert len(actual) - 4 == int.from_bytes(actual[2:4], "big") == int.from_bytes(row_[6:8], "big")
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
