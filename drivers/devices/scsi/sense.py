"""Sense data: the reason for a CHECK CONDITION, in the fixed format (SPC-4 section 4.5.3)."""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

__all__ = ["FIXED_SIZE", "Asc", "CheckCondition", "FieldPointer", "SenseKey", "Sense", "illegal"]

FIXED_SIZE = 18
"""Bytes of sense data in the fixed format."""
CURRENT_FIXED, CURRENT_DESCRIPTOR = 0x70, 0x72
VALID, SKSV, IN_CDB, BIT_POINTER_VALID = 0x80, 0x80, 0x40, 0x08
_FIXED = struct.Struct(">BBBIBIHBBH")
_INFORMATION_MAX = 0xFFFF_FFFF


class SenseKey(IntEnum):
    """Sense keys."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


class Asc(IntEnum):
    """Additional sense code and its qualifier, as one number."""

    NONE = 0x0000
    INITIALIZING_COMMAND_REQUIRED = 0x0402
    WRITE_ERROR = 0x0C00
    UNRECOVERED_READ_ERROR = 0x1100
    PARAMETER_LIST_LENGTH_ERROR = 0x1A00
    MISCOMPARE_DURING_VERIFY = 0x1D00
    INVALID_COMMAND_OPERATION_CODE = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    LOGICAL_UNIT_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    WRITE_PROTECTED = 0x2700
    SPACE_ALLOCATION_FAILED = 0x2707
    POWER_ON_OR_RESET = 0x2900
    BUS_DEVICE_RESET = 0x2903
    I_T_NEXUS_LOSS = 0x2907
    CAPACITY_DATA_HAS_CHANGED = 0x2A09
    SAVING_PARAMETERS_NOT_SUPPORTED = 0x3900
    REPORTED_LUNS_DATA_HAS_CHANGED = 0x3F0E


@attrs.frozen
class FieldPointer:
    """Pointer to the invalid field of an ILLEGAL REQUEST."""

    byte: int
    bit: int | None = None
    """The field's most significant bit."""
    cdb: bool = True
    """Whether the field is in the CDB; else it is in the parameter list."""

    def emit(self) -> tuple[int, int]:
        flags = SKSV | (IN_CDB if self.cdb else 0) | (0 if self.bit is None else BIT_POINTER_VALID | self.bit)
        return flags, self.byte


@attrs.frozen
class Sense:
    """Sense data."""

    key: int
    asc: int
    """Additional sense code and qualifier: an `Asc`, or a value that `Asc` does not list."""
    information: int | None = None
    """Value of the INFORMATION field, usually a logical block address."""
    field: FieldPointer | None = None

    def emit(self) -> bytes:
        """Return 18 bytes in fixed format. INFORMATION of more than 32 bits does not fit and is left out."""
        known = self.information is not None and self.information <= _INFORMATION_MAX
        flags, byte = (0, 0) if self.field is None else self.field.emit()
        first = CURRENT_FIXED | (VALID if known else 0)
        return _FIXED.pack(
            first, 0, self.key, (self.information or 0) if known else 0, FIXED_SIZE - 8, 0, self.asc, 0, flags, byte
        )

    @staticmethod
    def parse(data: bytes) -> Sense | None:
        """Parse either format. Returns None for another format, or data too short for key and code."""
        code = data[0] & 0x7F if data else 0
        if code in (CURRENT_DESCRIPTOR, CURRENT_DESCRIPTOR + 1) and len(data) >= 4:
            return Sense(data[1] & 0xF, int.from_bytes(data[2:4], "big"))
        if code not in (CURRENT_FIXED, CURRENT_FIXED + 1) or len(data) < 3:
            return None
        whole = data[:FIXED_SIZE].ljust(FIXED_SIZE, b"\0")
        first, _, key, information, _, _, asc, _, flags, byte = _FIXED.unpack(whole)
        field = None
        if flags & SKSV and key & 0xF == SenseKey.ILLEGAL_REQUEST:
            field = FieldPointer(byte, flags & 7 if flags & BIT_POINTER_VALID else None, bool(flags & IN_CDB))
        return Sense(key & 0xF, asc, information if first & VALID else None, field)

    def __str__(self) -> str:
        key = SenseKey(self.key).name if self.key in SenseKey.__members__.values() else f"key {self.key:#x}"
        asc = (
            Asc(self.asc).name if self.asc in Asc.__members__.values() else f"{self.asc >> 8:02x}/{self.asc & 255:02x}"
        )
        return f"{key}, {asc}".replace("_", " ").lower()


class CheckCondition(Exception):
    """End of a command with CHECK CONDITION and this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense)
        self.sense = sense


def illegal(asc: Asc, byte: int | None = None, bit: int | None = None, *, cdb: bool = True) -> CheckCondition:
    """Return an ILLEGAL REQUEST, with a field pointer if ``byte`` is given."""
    return CheckCondition(
        Sense(SenseKey.ILLEGAL_REQUEST, asc, field=None if byte is None else FieldPointer(byte, bit, cdb))
    )
