"""Command descriptor blocks: the supported commands, their valid bits, and functions that build CDBs.

The table is SPC's CDB usage data: a bit that is not set there must be 0. It serves to check CDBs and to answer REPORT
SUPPORTED OPERATION CODES.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum

import attrs

from drivers.devices.scsi.sense import Asc, illegal

__all__ = [
    "COMMANDS",
    "ScsiCommand",
    "Op",
    "blocks",
    "compare_and_write",
    "find",
    "inquiry",
    "lba_status",
    "mode_sense",
    "read",
    "read_capacity",
    "report_luns",
    "synchronize_cache",
    "unit_ready",
    "unmap",
    "write",
    "write_same",
]

LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
"""CDB length in bytes, by the first three bits of the operation code."""
FUA, EVPD, NDOB, UNMAP = 0x08, 0x01, 0x01, 0x08
"""Bits of byte 1."""


class Op(IntEnum):
    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    VERIFY_10 = 0x2F
    SYNCHRONIZE_CACHE_10 = 0x35
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    MODE_SELECT_10 = 0x55
    MODE_SENSE_10 = 0x5A
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    READ_16 = 0x88
    COMPARE_AND_WRITE = 0x89
    WRITE_16 = 0x8A
    VERIFY_16 = 0x8F
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    MAINTENANCE_IN = 0xA3
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    VERIFY_12 = 0xAF


READ_CAPACITY_16, GET_LBA_STATUS = 0x10, 0x12
"""Service actions of SERVICE ACTION IN (16)."""
REPORT_OPCODES, REPORT_FUNCTIONS = 0x0C, 0x0D
"""Service actions of MAINTENANCE IN: the supported operation codes, and the supported task management functions."""


@attrs.frozen
class ScsiCommand:
    """A row of the command table."""

    opcode: Op
    usage: bytes
    """CDB usage data: a mask of the valid bits; operation code and service action stand for themselves."""
    action: int | None = None

    @property
    def name(self) -> str:
        return self.opcode.name.lower() if self.action is None else f"{self.opcode.name.lower()}/{self.action:x}"

    def check(self, cdb: bytes) -> None:
        """Raise CheckCondition for the first bit that is set and not valid."""
        for at, (byte, used) in enumerate(zip(cdb[1 : len(self.usage)], self.usage[1:], strict=False), 1):
            wrong = byte & ~used
            if wrong:
                raise illegal(Asc.INVALID_FIELD_IN_CDB, at, wrong.bit_length() - 1)


def _table() -> Iterator[ScsiCommand]:
    lba, count = "ffffffff", "ffffffff"
    rows: dict[Op, str] = {
        Op.TEST_UNIT_READY: "00000000 00",
        Op.REQUEST_SENSE: "000000ff 00",
        Op.READ_6: "1fffffff 00",
        Op.WRITE_6: "1fffffff 00",
        Op.INQUIRY: "01ffffff 00",
        Op.MODE_SELECT_6: "110000ff 00",
        Op.MODE_SENSE_6: "08ffffff 00",
        Op.START_STOP_UNIT: "01000005 00",
        Op.READ_CAPACITY_10: "00 00000000 0000 00 00",
        Op.READ_10: f"18 {lba} 3f ffff 00",
        Op.WRITE_10: f"18 {lba} 3f ffff 00",
        Op.VERIFY_10: f"16 {lba} 3f ffff 00",
        Op.SYNCHRONIZE_CACHE_10: f"00 {lba} 3f ffff 00",
        Op.WRITE_SAME_10: f"08 {lba} 3f ffff 00",
        Op.UNMAP: "00 00000000 3f ffff 00",
        Op.MODE_SELECT_10: "11 00000000 00 ffff 00",
        Op.MODE_SENSE_10: "18 ffff 000000 ffff 00",
        Op.READ_16: f"18 {lba}{lba} {count} 3f 00",
        Op.COMPARE_AND_WRITE: f"18 {lba}{lba} 000000 ff 3f 00",
        Op.WRITE_16: f"18 {lba}{lba} {count} 3f 00",
        Op.VERIFY_16: f"16 {lba}{lba} {count} 3f 00",
        Op.SYNCHRONIZE_CACHE_16: f"00 {lba}{lba} {count} 3f 00",
        Op.WRITE_SAME_16: f"09 {lba}{lba} {count} 3f 00",
        Op.REPORT_LUNS: "00 ff 000000 ffffffff 00 00",
        Op.READ_12: f"18 {lba} {count} 3f 00",
        Op.WRITE_12: f"18 {lba} {count} 3f 00",
        Op.VERIFY_12: f"16 {lba} {count} 3f 00",
    }
    for opcode, usage in rows.items():
        yield ScsiCommand(opcode, bytes((opcode,)) + bytes.fromhex(usage))
    actions = {
        (Op.SERVICE_ACTION_IN_16, READ_CAPACITY_16): "0000000000000000 ffffffff 00 00",
        (Op.SERVICE_ACTION_IN_16, GET_LBA_STATUS): f"{lba}{lba} {count} 00 00",
        (Op.MAINTENANCE_IN, REPORT_OPCODES): "87 ff ffff ffffffff 00 00",
        (Op.MAINTENANCE_IN, REPORT_FUNCTIONS): "80 000000 ffffffff 00 00",
    }
    for (opcode, action), usage in actions.items():
        yield ScsiCommand(opcode, bytes((opcode, action)) + bytes.fromhex(usage), action)


COMMANDS: Mapping[tuple[int, int | None], ScsiCommand] = {
    (command.opcode, command.action): command for command in _table()
}
"""Commands by operation code and service action."""
_WITH_ACTION = frozenset(opcode for opcode, action in COMMANDS if action is not None)


def find(cdb: bytes) -> ScsiCommand:
    """Return the command of a valid CDB; bytes behind its end are ignored. Raises CheckCondition."""
    opcode = cdb[0]
    action = cdb[1] & 0x1F if opcode in _WITH_ACTION else None
    command = COMMANDS.get((opcode, action))
    if command is None:
        if action is None:
            raise illegal(Asc.INVALID_COMMAND_OPERATION_CODE, 0)
        raise illegal(Asc.INVALID_FIELD_IN_CDB, 1, 4)
    if len(cdb) < len(command.usage):
        raise illegal(Asc.INVALID_FIELD_IN_CDB)
    command.check(cdb)
    return command


def blocks(cdb: bytes) -> tuple[int, int]:
    """Return first block and number of blocks of a command that has them, by its CDB length."""
    size = LENGTHS[cdb[0] >> 5]
    if size == 6:
        return int.from_bytes(cdb[1:4], "big") & 0x1F_FFFF, cdb[4] or 256
    if size == 10:
        return int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")
    if size == 12:
        return int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[6:10], "big")
    return int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")


# CDBs of an initiator.


def unit_ready() -> bytes:
    return bytes(6)


def inquiry(size: int = 96, page: int | None = None) -> bytes:
    """INQUIRY for standard data, or for a page of vital product data; at most ``size`` bytes."""
    evpd, code = (0, 0) if page is None else (EVPD, page)
    return bytes((Op.INQUIRY, evpd, code, size >> 8, size & 0xFF, 0))


def report_luns(size: int) -> bytes:
    return bytes((Op.REPORT_LUNS, 0, 0, 0, 0, 0)) + size.to_bytes(4, "big") + bytes(2)


def mode_sense(page: int, size: int = 252, subpage: int = 0) -> bytes:
    """MODE SENSE (10) without block descriptors."""
    return bytes((Op.MODE_SENSE_10, 0x08, page, subpage, 0, 0, 0)) + size.to_bytes(2, "big") + b"\0"


def read_capacity() -> bytes:
    """READ CAPACITY (16), for 32 bytes."""
    return bytes((Op.SERVICE_ACTION_IN_16, READ_CAPACITY_16)) + bytes(11) + b"\x20" + bytes(2)


def read(lba: int, count: int, *, fua: bool = False) -> bytes:
    """READ (16)."""
    return _sixteen(Op.READ_16, lba, count, FUA if fua else 0)


def write(lba: int, count: int, *, fua: bool = False) -> bytes:
    """WRITE (16)."""
    return _sixteen(Op.WRITE_16, lba, count, FUA if fua else 0)


def synchronize_cache() -> bytes:
    """SYNCHRONIZE CACHE (16) of the whole unit."""
    return _sixteen(Op.SYNCHRONIZE_CACHE_16, 0, 0, 0)


def write_same(lba: int, count: int, *, unmap: bool = False, zeroes: bool = False) -> bytes:
    """WRITE SAME (16) with one block of data, or without data for ``zeroes``."""
    return _sixteen(Op.WRITE_SAME_16, lba, count, (UNMAP if unmap else 0) | (NDOB if zeroes else 0))


def compare_and_write(lba: int, count: int, *, fua: bool = False) -> bytes:
    """COMPARE AND WRITE of up to 255 blocks: data-out are those to compare with, then those to write."""
    return _sixteen(Op.COMPARE_AND_WRITE, lba, count, FUA if fua else 0)


def lba_status(lba: int, size: int) -> bytes:
    """GET LBA STATUS from ``lba`` on, for at most ``size`` bytes."""
    return _sixteen(Op.SERVICE_ACTION_IN_16, lba, size, GET_LBA_STATUS)


def unmap(*ranges: tuple[int, int]) -> tuple[bytes, bytes]:
    """Return the CDB and the parameters of an UNMAP; ``ranges`` are (first block, number of blocks)."""
    rows = b"".join(lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(4) for lba, count in ranges)
    data = (6 + len(rows)).to_bytes(2, "big") + len(rows).to_bytes(2, "big") + bytes(4) + rows
    return bytes((Op.UNMAP, 0, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0", data


def _sixteen(opcode: Op, lba: int, count: int, flags: int) -> bytes:
    return bytes((opcode, flags)) + lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(2)
