"""Commands of a disk: PYSCSI parses each answer, and each impossible command has its exact sense."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.devices.scsi import Asc, LogicalUnit, Response, SenseKey
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.device.unit import Io
from drivers.storage.workers import IoKind
from support.rigs.scsi import BLOCKS, check, illegal, make_unit, perform, select, unit

__all__ = ["unit"]  # a fixture


# Commands about the medium


def test_unmap_and_write_same_give_blocks_up_and_read_as_zeroes(unit: LogicalUnit) -> None:
    unit.store.data[:] = b"x" * len(unit.store.data)  # type: ignore[attr-defined]
    cdb, data = commands.unmap((0, 4), (10, 0), (2000, 48))
    actual = unit.perform(cdb.ljust(32, b"\0"), [memoryview(data)], 0)
    assert isinstance(actual, Io)
    assert (actual.kind, [(e.offset, e.size, e.unmap) for e in actual.extents]) == (
        IoKind.WRITE_ZEROES,
        [(0, 2048, True), (2000 * 512, 48 * 512, True)],
    )
    perform(unit, cdb, data)
    assert unit.store.data[:2049] == bytes(2048) + b"x"  # type: ignore[attr-defined]
    for unmap in (True, False):
        actual = unit.perform(commands.write_same(9, 3, unmap=unmap).ljust(32, b"\0"), [memoryview(bytes(512))], 0)
        assert isinstance(actual, Io)
        assert [(e.offset, e.size, e.unmap) for e in actual.extents] == [(9 * 512, 3 * 512, unmap)]
    patterned = unit.perform(commands.write_same(9, 3, unmap=True).ljust(32, b"\0"), [memoryview(b"p" * 512)], 0)
    assert isinstance(patterned, Io)
    assert (patterned.kind, patterned.pattern) == (IoKind.FILL, b"p" * 512)


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
        actual = unit.perform(cdb, [memoryview(bytes(out))], 0)
        assert isinstance(actual, Io)
        return actual

    assert verify(0, 3, 0) == Io(unit.store, IoKind.READ, 2048, 1536)
    assert (verify(1, 3, 1536).kind, verify(1, 3, 1536).out_used) == (IoKind.COMPARE, 1536)
    assert (verify(3, 3, 512).size, verify(3, 3, 512).out_used) == (1536, 512)
    illegal(check(unit, bytes((Op.VERIFY_16, 4)).ljust(16, b"\0")), Asc.INVALID_FIELD_IN_CDB, (1, 2, "cdb"))
    assert perform(unit, bytes((Op.VERIFY_12,)).ljust(12, b"\0")) == (b"", None)


def test_fua_and_synchronize_cache_reach_the_store(unit: LogicalUnit) -> None:
    def io(cdb: bytes, out: int = 0, room: int = 0) -> Io:
        actual = unit.perform(cdb.ljust(32, b"\0"), [memoryview(bytes(out))], room)
        assert isinstance(actual, Io)
        return actual

    assert io(commands.write(0, 1, fua=True), 512).stable
    assert io(commands.read(0, 1, fua=True), room=512).stable
    assert io(commands.synchronize_cache()).kind is IoKind.FLUSH
    assert io(bytes((Op.SYNCHRONIZE_CACHE_10, 0, 0, 0, 7, 255, 0, 0, 1, 0))).kind is IoKind.FLUSH
    illegal(check(unit, bytes((Op.SYNCHRONIZE_CACHE_10, 0, 0, 0, 8, 1, 0, 0, 0, 0))), Asc.LBA_OUT_OF_RANGE)


def test_a_stopped_unit_is_not_ready_until_it_is_started(unit: LogicalUnit) -> None:
    stop, start = bytes((Op.START_STOP_UNIT, 0, 0, 0, 0, 0)), bytes((Op.START_STOP_UNIT, 1, 0, 0, 1, 0))
    actual = unit.perform(stop.ljust(32, b"\0"), [], 0)
    assert isinstance(actual, Io)
    assert actual.kind is IoKind.FLUSH
    for cdb in (commands.unit_ready(), commands.read(0, 1), commands.write(0, 1), commands.read_capacity()):
        sense = check(unit, cdb, bytes(512))
        assert (sense["sense_key"], sense["ascq"]) == (SenseKey.NOT_READY, Asc.INITIALIZING_COMMAND_REQUIRED)
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
        (commands.compare_and_write(0, 1), bytes(1024)),
        (cdb, data),
        (bytes((Op.WRITE_6, 0, 0, 0, 1, 0)), bytes(512)),
    ):
        sense = check(unit, change, out)
        assert (sense["sense_key"], sense["ascq"]) == (SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)
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
    pytest.param(
        "83 00 0000000000000000 00000000 00 00",
        Asc.INVALID_COMMAND_OPERATION_CODE,
        (0, None, "cdb"),
        id="EXTENDED COPY",
    ),
    pytest.param(
        "83 01 0000000000000000 00000000 00 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="XCOPY (LID4)"
    ),
    pytest.param(
        "83 11 0000000000000000 00000000 00 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="WRITE TOKEN"
    ),
    pytest.param(
        "84 04 0000000000000000 00000000 00 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="COPY RESULTS"
    ),
    pytest.param(
        "89 00 0000000000000000 0000 01 01 00 00", Asc.INVALID_FIELD_IN_CDB, (12, 0, "cdb"), id="reserved of COMPARE"
    ),
    pytest.param(
        "89 20 0000000000000000 000000 01 00 00", Asc.INVALID_FIELD_IN_CDB, (1, 5, "cdb"), id="WRPROTECT of COMPARE"
    ),
    pytest.param(
        "89 00 0000000000000000 000000 81 00 00", Asc.INVALID_FIELD_IN_CDB, (13, 7, "cdb"), id="COMPARE too long"
    ),
    pytest.param("89 00 00000000000007ff 000000 02 00 00", Asc.LBA_OUT_OF_RANGE, None, id="COMPARE beyond the end"),
    pytest.param("9e 12 0000000000000800 00000018 00 00", Asc.LBA_OUT_OF_RANGE, None, id="status beyond the end"),
    pytest.param(
        "9e 12 0000000000000000 00000018 01 00", Asc.INVALID_FIELD_IN_CDB, (14, 0, "cdb"), id="reserved of the status"
    ),
    pytest.param("16 00 00 00 00 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="RESERVE"),
    pytest.param("7f 00", Asc.INVALID_COMMAND_OPERATION_CODE, (0, None, "cdb"), id="variable length"),
    pytest.param("9e 13 00", Asc.INVALID_FIELD_IN_CDB, (1, 4, "cdb"), id="no such service action"),
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
    pytest.param(commands.compare_and_write(0, 2), bytes(2047), 0, id="COMPARE AND WRITE"),
    pytest.param(commands.lba_status(0, 24), b"", 23, id="GET LBA STATUS"),
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
    actual = unit.perform(cdb.ljust(32, b"\0"), [memoryview(out)] if out else [], room)
    assert actual is Response.OVERRUN
    assert (unit.store.data, unit.mode) == (before, mode)  # type: ignore[attr-defined]


@given(st.binary(min_size=16, max_size=32), st.binary(max_size=600), st.integers(0, 600))
def test_any_command_ends_with_a_value(cdb: bytes, out: bytes, room: int) -> None:
    unit = make_unit(blocks=64)
    for opcode in (cdb[0], *Op):
        actual = unit.perform(bytes((opcode,)) + cdb[1:], [memoryview(out)], room)
        if isinstance(actual, Io):
            assert 0 <= actual.offset <= actual.offset + actual.size <= 64 * 512
            assert all(0 <= e.offset <= e.offset + e.size <= 64 * 512 for e in actual.extents)
            assert actual.in_size <= room
            assert actual.out_used <= len(out)
