"""SCSI rules about lists that are cut, and bits of CDBs that ask for more (SBC-3, SPC-4)."""

from __future__ import annotations

import pytest

from drivers.devices.scsi import Asc, LogicalUnit, Sense, SenseKey
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.device.unit import Io
from drivers.devices.scsi.sense import FieldPointer
from support.rigs.scsi import check, make_unit, perform

TIMEOUTS = b"\0\x0a" + bytes(10)


@pytest.fixture
def unit() -> LogicalUnit:
    return make_unit()


def rows(*lbas: int) -> bytes:
    return b"".join(lba.to_bytes(8, "big") + (1).to_bytes(4, "big") + bytes(4) for lba in lbas)


@pytest.mark.parametrize(
    ("length", "data", "unmapped"),
    [
        # The descriptors' length is no multiple of 16: the last one is incomplete, and ignored.
        *((16 + extra, rows(3) + bytes(extra), [3]) for extra in (0, 1, 8, 15)),
        (15, rows(3), []),
        (31, rows(3, 5), [3]),
        (8, rows(3)[:8], []),
        # The parameter list length of the CDB cuts descriptors: these are ignored.
        (32, rows(3), [3]),
        (32, rows(3, 5)[:31], [3]),
        (0xFFF0, rows(3, 5), [3, 5]),
        (16, b"", []),
        # The descriptors end before the list does.
        (16, rows(3, 5), [3]),
        (0, rows(3, 5), []),
    ],
)
def test_an_incomplete_unmap_descriptor_is_ignored(
    unit: LogicalUnit, length: int, data: bytes, unmapped: list[int]
) -> None:
    out = (6 + length).to_bytes(3, "big")[-2:] + length.to_bytes(2, "big") + bytes(4) + data
    cdb = (bytes((Op.UNMAP, 0, 0, 0, 0, 0, 0)) + len(out).to_bytes(2, "big")).ljust(32, b"\0")
    actual = unit.perform(cdb, [memoryview(out)], 0)
    if unmapped:
        assert isinstance(actual, Io)
        assert [extent.offset // 512 for extent in actual.extents] == unmapped
        assert actual.out_used == len(out)
    else:
        assert perform(unit, cdb, out) == (b"", None)


def test_unmap_is_no_command_of_a_store_that_can_not(unit: LogicalUnit) -> None:
    unit.store.info = type(unit.store.info)(1 << 20, unmaps=False)  # type: ignore[misc]
    cdb = bytes((Op.UNMAP, 0, 0, 0, 0, 0, 0, 0, 24, 0))
    assert perform(unit, cdb)[1] == Sense(
        SenseKey.ILLEGAL_REQUEST, Asc.INVALID_COMMAND_OPERATION_CODE, field=FieldPointer(0)
    )


def opcodes(options: int, opcode: int = 0, action: int = 0, room: int = 4096) -> bytes:
    head = bytes((Op.MAINTENANCE_IN, 0x0C, options, opcode)) + action.to_bytes(2, "big")
    return head + room.to_bytes(4, "big") + bytes(2)


def test_timeouts_descriptors_are_included_if_requested(unit: LogicalUnit) -> None:
    plain, _ = perform(unit, opcodes(0), room=4096)
    timed, _ = perform(unit, opcodes(0x80), room=4096)
    count = int.from_bytes(plain[:4], "big") // 8
    assert int.from_bytes(timed[:4], "big") == len(timed) - 4 == 20 * count
    for i in range(count):
        old, new = plain[4 + 8 * i :][:8], timed[4 + 20 * i :][:20]
        assert new == old[:5] + bytes((old[5] | 2,)) + old[6:] + TIMEOUTS


@pytest.mark.parametrize(("option", "opcode", "action"), [(1, 0x28, 0), (3, 0x28, 0), (2, 0x9E, 0x10), (3, 0x9E, 0x10)])
def test_one_command_has_its_timeouts_descriptor(unit: LogicalUnit, option: int, opcode: int, action: int) -> None:
    plain, _ = perform(unit, opcodes(option, opcode, action), room=4096)
    timed, _ = perform(unit, opcodes(0x80 | option, opcode, action), room=4096)
    assert plain[1] == 3
    assert timed == bytes((0, 0x83)) + plain[2:] + TIMEOUTS


def test_an_unsupported_command_has_no_timeouts(unit: LogicalUnit) -> None:
    assert perform(unit, opcodes(0x81, 0xEE), room=4096) == (bytes((0, 1, 0, 0)), None)


def test_the_other_bits_of_the_options_stay_reserved(unit: LogicalUnit) -> None:
    assert check(unit, opcodes(0x08))["field"] == (2, 3, "cdb")


def test_task_management_functions_are_reported_in_both_formats(unit: LogicalUnit) -> None:
    def functions(options: int) -> bytes:
        return perform(unit, bytes((Op.MAINTENANCE_IN, 0x0D, options, 0, 0, 0, 0, 0, 4, 0, 0, 0)), room=1024)[0]

    plain, extended = functions(0), functions(0x80)
    assert len(plain) == 4
    assert extended == plain[:3] + b"\x0c" + bytes(12)
    assert check(unit, bytes((Op.MAINTENANCE_IN, 0x0D, 0x40, 0, 0, 0, 0, 0, 4, 0, 0, 0)))["field"] == (2, 6, "cdb")


CACHING = bytes((0x08, 18, 0x04)).ljust(20, b"\0")


@pytest.mark.parametrize("cut", range(1, len(CACHING)))
def test_a_mode_page_that_is_cut_is_an_error_of_the_lists_length(unit: LogicalUnit, cut: int) -> None:
    data = bytes(8) + CACHING[:cut]
    cdb = bytes((Op.MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0"
    assert perform(unit, cdb, data)[1] == Sense(SenseKey.ILLEGAL_REQUEST, Asc.PARAMETER_LIST_LENGTH_ERROR)


def test_a_mode_page_is_set_once_in_a_list(unit: LogicalUnit) -> None:
    data = bytes(8) + CACHING * 3000
    cdb = bytes((Op.MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0"
    assert check(unit, cdb, data)["field"] == (28, 5, "")
