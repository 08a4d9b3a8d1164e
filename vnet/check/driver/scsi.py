"""The SCSI host that a foreign driver is watched on: one disk, as target 0 and LUN 0."""

from __future__ import annotations

import struct

from vnet.check.driver.clauses import Observations
from vnet.check.driver.devices import Sectors, WatchedDevice
from vnet.check.driver.ring import Chain
from vnet.check.kinds.blk import SECTOR
from vnet.check.kinds.scsi import CDB, CONTROL, EVENT, EVENT_SIZE

__all__ = ["WatchedScsi"]

SENSE = 96
REQUEST = 19 + CDB
"""Bytes of a request's header: LUN, id, task_attr, prio, crn, and the CDB."""
SECTORS = 64 << 11
WRITABLE = range(20, 28)
"""Offsets of sense_size and cdb_size in the configuration."""
REPORT_LUNS_LUN = bytes((0xC1, 1)) + bytes(6)
"""The address of the REPORT LUNS well-known logical unit."""
OK, BAD_TARGET = 0, 3
GOOD, CHECK_CONDITION = 0, 2
ILLEGAL_REQUEST, INVALID_COMMAND, OUT_OF_RANGE, INVALID_FIELD = 5, 0x20, 0x21, 0x24
HEAD_OF_QUEUE = frozenset({0x03, 0x12, 0xA0})
"""REQUEST SENSE, INQUIRY and REPORT LUNS: they run first with every task attribute."""
ORDERED = 1


class Refusal(Exception):
    """A command ends with CHECK CONDITION; ``code`` is its additional sense code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class WatchedScsi(WatchedDevice):
    """A host with one disk in memory."""

    rings = 3

    def __init__(self, seen: Observations) -> None:
        super().__init__(seen)
        self._disk = Sectors()
        self.config = struct.pack("<IIIIIIIHHI", 1, 126, 0xFFFF, 128, EVENT_SIZE, SENSE, CDB, 0, 255, 16383)

    def judge_write(self, offset: int, data: bytes) -> None:
        good = offset in WRITABLE and offset + len(data) <= WRITABLE.stop
        self.seen.judge("SCSI-DRV-3", good, f"{len(data)} bytes at {offset}: {data.hex()}")

    def serve(self, ring: int, chain: Chain) -> int | None:
        if ring == EVENT:
            self._judge_event_buffer(chain)
            return None
        if ring == CONTROL:
            answer = bytes(5) if chain.readable[:4] != bytes(4) else bytes(1)  # AN query and subscribe, or a function
            return chain.fill(answer[: chain.room])
        return self._request(chain)

    def _judge_event_buffer(self, chain: Chain) -> None:
        judge, evidence = self.seen.judge, f"{len(chain.readable)} readable bytes, {chain.room} writable ones"
        judge("SCSI-DRV-13", not chain.readable, evidence)
        judge("SCSI-DRV-14", chain.room >= EVENT_SIZE, evidence)
        judge("SCSI-DRV-15", chain.room >= EVENT_SIZE, evidence)

    def _request(self, chain: Chain) -> int:
        header, data = chain.readable[:REQUEST], chain.readable[REQUEST:]
        if len(header) < REQUEST or chain.room < 12 + SENSE:
            return 0
        address, cdb = header[:8], header[19:]
        attribute, priority, number = header[16:19]
        judge, evidence = self.seen.judge, f"header {header.hex()}"
        single = address[0] == 1 and address[2] & 0xC0 in (0, 0x40) and not any(address[4:])
        judge("SCSI-DRV-8", single or address == REPORT_LUNS_LUN, evidence)
        judge("SCSI-DRV-10", not (attribute or priority or number), evidence)
        if cdb[0] in HEAD_OF_QUEUE:
            judge("SCSI-DRV-9", attribute != ORDERED, evidence)
        room = chain.room - 12 - SENSE
        if address[1] or (address[2] & 0x3F or address[3]):
            return chain.fill(_response(0, GOOD, BAD_TARGET))
        try:
            answer, status, sense = self._command(cdb, data)[:room], GOOD, b""
        except Refusal as exc:
            answer, status = b"", CHECK_CONDITION
            sense = bytes((0x70, 0, ILLEGAL_REQUEST, 0, 0, 0, 0, 10, 0, 0, 0, 0, exc.code)) + bytes(5)
        return chain.fill(_response(room - len(answer), status, OK, sense) + answer)

    def _command(self, cdb: bytes, data: bytes) -> bytes:
        """Return the data of a command to the driver. Raises Refusal."""
        match cdb[0]:
            case 0x00 | 0x1B | 0x35 | 0x91:  # TEST UNIT READY, START STOP UNIT, SYNCHRONIZE CACHE
                return b""
            case 0x03:  # REQUEST SENSE
                return (b"\x70" + bytes(17))[: cdb[4]]
            case 0x12 if cdb[1] & 1:  # INQUIRY of a page: the list of pages is the only one
                if cdb[2]:
                    raise Refusal(INVALID_FIELD)
                return bytes((0, 0, 0, 1, 0))
            case 0x12:
                return bytes((0, 0, 5, 2, 31, 0, 0, 2)) + b"vnet    check           1   "
            case 0x1A:  # MODE SENSE(6)
                return bytes((3, 0, 0, 0))
            case 0x5A:  # MODE SENSE(10)
                return bytes((0, 6, 0, 0, 0, 0, 0, 0))
            case 0x25:  # READ CAPACITY(10)
                return struct.pack(">II", SECTORS - 1, SECTOR)
            case 0x9E if cdb[1] & 0x1F == 0x10:  # READ CAPACITY(16)
                return struct.pack(">QI", SECTORS - 1, SECTOR).ljust(32, b"\0")
            case 0xA0:  # REPORT LUNS
                return struct.pack(">I4xQ", 8, 0)
            case 0x08 | 0x28 | 0xA8 | 0x88:
                return self._disk.read(*self._place(cdb))
            case 0x0A | 0x2A | 0xAA | 0x8A:
                sector, count = self._place(cdb)
                self._disk.write(sector, data[: count * SECTOR])
                return b""
        raise Refusal(INVALID_COMMAND)

    def _place(self, cdb: bytes) -> tuple[int, int]:
        """Return the first sector and the count of a READ or WRITE. Raises Refusal."""
        sector, count = {
            0: (int.from_bytes(cdb[1:4], "big") & 0x1F_FFFF, cdb[4] or 256),
            1: (int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")),
            4: (int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")),
            5: (int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[6:10], "big")),
        }[cdb[0] >> 5]
        if sector + count > SECTORS:
            raise Refusal(OUT_OF_RANGE)
        return sector, count


def _response(residual: int, status: int, response: int, sense: bytes = b"") -> bytes:
    return struct.pack("<IIHBB", len(sense), residual, 0, status, response) + sense.ljust(SENSE, b"\0")
