"""Commands that every logical unit has (SPC-4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from drivers.devices.scsi.cdb import COMMANDS, EVPD, REPORT_FUNCTIONS, REPORT_OPCODES, Op, ScsiCommand
from drivers.devices.scsi.device.inquiry import ABSENT, WELL_KNOWN_UNIT, UnitIdentity, standard
from drivers.devices.scsi.device.unit import GOOD, NO_SENSE, Call, Handler, Reply, Unit
from drivers.devices.scsi.sense import Asc, CheckCondition, Sense, SenseKey, illegal

__all__ = ["PRIMARY", "AbsentUnit", "Inventory", "ReportLunsUnit", "report_luns"]

Inventory = Callable[[], Sequence[bytes]]
"""Callable that returns the LUNs for REPORT LUNS, eight bytes each."""
WELL_KNOWN_ONLY, ALL_LUNS = 1, (0, 2)
"""Supported values of SELECT REPORT."""
SUPPORTED, NOT_SUPPORTED = 3, 1
SERVACTV, CTDP = 0x01, 0x02
"""Flags of a command's descriptor: it has a service action; a timeouts descriptor follows it."""
RCTD, CTDP_ONE = 0x80, 0x80
"""RCTD of the CDB requests a timeouts descriptor; CTDP of the one-command answer announces it."""
TIMEOUTS = b"\0\x0a" + bytes(10)
"""A command timeouts descriptor (SPC-4 section 6.35.4) that indicates no timeout."""
REPD = 0x80
FUNCTIONS = bytes((0x80 | 0x40 | 0x10 | 0x08 | 0x04, 0x01 | 0x02, 0, 0))
"""Flags: abort task, abort task set, clear task set, logical unit reset, query task; nexus reset, query task set."""
FUNCTIONS_EXTENDED = FUNCTIONS[:3] + b"\x0c" + bytes(12)
"""The same functions in the extended format (SPC-4 section 6.36.3), without timeouts."""


class Listing(Protocol):
    """A unit that has an inventory."""

    inventory: Inventory
    attentions: list[Asc]


def unit_ready(unit: Unit, call: Call) -> Reply:
    return GOOD


def request_sense(unit: Unit, call: Call) -> Reply:
    """Return the pending unit attention as sense data, and clear it."""
    sense = Sense(SenseKey.UNIT_ATTENTION, unit.attentions[0]) if unit.attentions else NO_SENSE
    reply = call.answer(sense.emit(), call.cdb[4])
    if unit.attentions:
        unit.attentions.pop(0)
    return reply


def report_luns(unit: Listing, call: Call) -> Reply:
    select, allocation = call.cdb[2], call.field(6, 4)
    if select not in (*ALL_LUNS, WELL_KNOWN_ONLY):
        raise illegal(Asc.INVALID_FIELD_IN_CDB, 2, 7)
    luns = b"" if select == WELL_KNOWN_ONLY else b"".join(unit.inventory())
    reply = call.answer(len(luns).to_bytes(4, "big") + bytes(4) + luns, allocation)
    if Asc.REPORTED_LUNS_DATA_HAS_CHANGED in unit.attentions:  # this answer reports the change
        unit.attentions.remove(Asc.REPORTED_LUNS_DATA_HAS_CHANGED)
    return reply


def report_opcodes(unit: Unit, call: Call) -> Reply:
    option, opcode, action = call.cdb[2] & 7, call.cdb[3], call.field(4, 2)
    allocation = call.field(6, 4)
    timeouts = TIMEOUTS if call.cdb[2] & RCTD else b""
    if option == 0:
        rows = b"".join(_row(command, timeouts) for command in unit.supported())
        return call.answer(len(rows).to_bytes(4, "big") + rows, allocation)
    has_actions = any(code == opcode and service_action is not None for code, service_action in COMMANDS)
    if option > 3 or (option == 1 and has_actions) or (option == 2 and not has_actions):
        raise illegal(Asc.INVALID_FIELD_IN_CDB, 2, 2)
    key = opcode, action if has_actions else None
    if key not in unit.handlers or (not has_actions and action and option == 3):
        return call.answer(bytes((0, NOT_SUPPORTED, 0, 0)), allocation)
    usage = COMMANDS[key].usage
    support = SUPPORTED | (CTDP_ONE if timeouts else 0)
    return call.answer(bytes((0, support)) + len(usage).to_bytes(2, "big") + usage + timeouts, allocation)


def _row(command: ScsiCommand, timeouts: bytes) -> bytes:
    action = command.action
    flags = (0 if action is None else SERVACTV) | (CTDP if timeouts else 0)
    return (
        bytes((command.opcode, 0))
        + (action or 0).to_bytes(2, "big")
        + bytes((0, flags))
        + len(command.usage).to_bytes(2, "big")
        + timeouts
    )


def report_functions(unit: Unit, call: Call) -> Reply:
    return call.answer(FUNCTIONS_EXTENDED if call.cdb[2] & REPD else FUNCTIONS, call.field(6, 4))


def inquire(peripheral: int, product: str) -> Handler:
    """Return the INQUIRY handler of a unit without vital product data."""

    identity = UnitIdentity("", product=product)

    def inquiry(unit: Unit, call: Call) -> Reply:
        if call.cdb[1] & EVPD:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 1, 0)
        if call.cdb[2]:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 2, 7)
        return call.answer(standard(peripheral, identity), call.field(3, 2))

    return inquiry


PRIMARY: dict[tuple[int, int | None], Handler] = {
    (Op.TEST_UNIT_READY, None): unit_ready,
    (Op.REQUEST_SENSE, None): request_sense,
    (Op.REPORT_LUNS, None): report_luns,
    (Op.MAINTENANCE_IN, REPORT_OPCODES): report_opcodes,
    (Op.MAINTENANCE_IN, REPORT_FUNCTIONS): report_functions,
}


class ReportLunsUnit(Unit):
    """The REPORT LUNS well-known logical unit, of one target or of the whole domain."""

    handlers: ClassVar = {**PRIMARY, (Op.INQUIRY, None): inquire(WELL_KNOWN_UNIT, "REPORT LUNS")}

    def __init__(self, inventory: Inventory) -> None:
        super().__init__()
        self.inventory = inventory


def _absent_sense(unit: Unit, call: Call) -> Reply:
    """Return the sense as data: REQUEST SENSE does not end with CHECK CONDITION."""
    return call.answer(UNSUPPORTED_LUN.emit(), call.cdb[4])


UNSUPPORTED_LUN = Sense(SenseKey.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)


class AbsentUnit(Unit):
    """A LUN without logical unit at an existing target (SPC-4 section 6.6.1)."""

    handlers: ClassVar = {
        (Op.INQUIRY, None): inquire(ABSENT, ""),
        (Op.REQUEST_SENSE, None): _absent_sense,
        (Op.REPORT_LUNS, None): report_luns,
    }

    def __init__(self, inventory: Inventory) -> None:
        super().__init__()
        self.inventory = inventory

    def find(self, cdb: bytes) -> ScsiCommand:
        if not any(cdb[0] == opcode for opcode, _ in self.handlers):
            raise CheckCondition(UNSUPPORTED_LUN)
        return super().find(cdb)
