"""A logical unit without a device around it: as PYSCSI sees one, and done at once on memory."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from drivers.devices.scsi import Asc, LogicalUnit, Response, SenseKey, UnitIdentity
from drivers.devices.scsi.cdb import Op
from drivers.devices.scsi.device.unit import Io, Reply, Unit
from drivers.devices.scsi.sense import Sense
from drivers.storage.workers import IoKind
from rings.chain import copy_out
from vnet.ports.disk.store import MemoryStore

__all__ = ["BLOCKS", "check", "make_unit", "perform", "pyscsi"]

BLOCKS = 2048
enums: Any = pytest.importorskip("pyscsi.pyscsi.scsi_enum_command")  # of the extra "test"
senses: Any = pytest.importorskip("pyscsi.pyscsi.scsi_sense")


def make_unit(*, block: int = 512, read_only: bool = False, blocks: int = BLOCKS) -> LogicalUnit:
    return LogicalUnit(MemoryStore(blocks * block, read_only=read_only, block_size=block), UnitIdentity("serial-1"))


def perform(unit: Unit, cdb: bytes, out: bytes = b"", room: int = 0) -> tuple[bytes, Sense | None]:
    """The result of a command: data and sense. Raises AssertionError for an OVERRUN."""
    outcome = unit.perform(bytes(cdb).ljust(32, b"\0"), [memoryview(bytearray(out))] if out else [], room)
    assert not isinstance(outcome, Response), outcome
    if isinstance(outcome, Reply):
        return outcome.data, outcome.sense
    assert isinstance(unit, LogicalUnit)
    if outcome.kind is IoKind.COMPARE_AND_WRITE:
        both = copy_out(outcome.out, outcome.out_used)
        actual = unit.store.data[outcome.offset : outcome.offset + outcome.size]  # type: ignore[attr-defined]
        if actual != both[: outcome.size]:
            return b"", Sense(SenseKey.MISCOMPARE, Asc.MISCOMPARE_DURING_VERIFY)
    return finish(unit, outcome), None


def finish(unit: LogicalUnit, io: Io) -> bytes:
    store = unit.store
    if io.kind is IoKind.READ:
        data = bytearray(io.size)
        store.preadv([memoryview(data)], io.offset)
        return bytes(data[: io.in_size])
    if io.kind is IoKind.WRITE:
        store.pwritev([memoryview(copy_out(io.out, io.size))], io.offset)
    elif io.kind is IoKind.COMPARE_AND_WRITE:
        store.pwritev([memoryview(copy_out(io.out, io.out_used)[io.size :])], io.offset)
    elif io.kind is IoKind.STATUS:
        assert io.render is not None
        (extent,) = io.extents
        return io.render([(extent.offset, extent.size, True)])[: io.in_size]
    elif io.kind is IoKind.FILL:
        store.pwritev([memoryview(io.pattern * (io.size // len(io.pattern)))], io.offset)
    elif io.kind is IoKind.WRITE_ZEROES:
        for extent in io.extents:
            store.pwritev([memoryview(bytes(extent.size))], extent.offset)
    return b""


def check(unit: Unit, cdb: bytes, out: bytes = b"", room: int = 1 << 20) -> dict[str, Any]:
    """The sense of a command that ends with CHECK CONDITION, as PYSCSI reads it."""
    before = None if not isinstance(unit, LogicalUnit) else bytes(unit.store.data)  # type: ignore[attr-defined]
    data, sense = perform(unit, cdb, out, room)
    assert sense is not None, "it is GOOD"
    assert not data
    if isinstance(unit, LogicalUnit):
        assert unit.store.data == before  # type: ignore[attr-defined]
    raw = sense.emit()
    if sense.information is not None and sense.information > 0xFFFF_FFFF:
        sense = attrs.evolve(sense, information=None)  # fixed format has no room for it
    assert Sense.parse(raw) == sense
    actual = senses.SCSICheckCondition(raw)
    fields: dict[str, Any] = dict(actual.data)
    specific = fields["sense_key_specific_information"]
    fields["ascq"] = actual._ascq()
    flags, byte = specific >> 16, specific & 0xFFFF
    bit = flags & 7 if flags & 8 else None
    fields["field"] = (byte, bit, "cdb" if flags & 0x40 else "") if fields["sksv"] else None
    str(actual)  # PYSCSI knows the code
    return fields


class _Device:
    """A device for `pyscsi.pyscsi.scsi.SCSI`."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.opcodes = enums.sbc if isinstance(unit, LogicalUnit) else enums.spc
        self.devicetype = 0

    def execute(self, command: Any) -> None:
        data, sense = perform(self.unit, command.cdb, bytes(command.dataout or b""), len(command.datain))
        if sense is not None:
            raise senses.SCSICheckCondition(sense.emit())
        command.datain[: len(data)] = data


def pyscsi(unit: Unit, block: int = 512) -> Any:
    """PYSCSI's client of a unit, with blocks of so many bytes."""
    from pyscsi.pyscsi.scsi import SCSI

    scsi = SCSI(None)
    scsi.device, scsi._blocksize = _Device(unit), block
    return scsi


@pytest.fixture
def unit() -> LogicalUnit:
    return make_unit()


def illegal(actual: dict[str, Any], asc: Asc, field: tuple[int, int | None, str] | None = None) -> None:
    assert (actual["sense_key"], actual["ascq"]) == (SenseKey.ILLEGAL_REQUEST, asc)
    if field is not None:
        assert actual["field"] == field


def select(data: bytes, *, short: bool = False, flags: int = 0x10) -> bytes:
    if short:
        return bytes((Op.MODE_SELECT_6, flags, 0, 0, len(data), 0))
    return bytes((Op.MODE_SELECT_10, flags, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0"
