"""A disk as a logical unit: the commands of SBC-3 on a sector store."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from drivers.contracts.ports import SectorStore
from drivers.devices.scsi.cdb import (
    EVPD,
    FUA,
    GET_LBA_STATUS,
    LENGTHS,
    NDOB,
    READ_CAPACITY_16,
    UNMAP,
    Op,
    ScsiCommand,
    blocks,
)
from drivers.devices.scsi.device.inquiry import DISK, LIMITS, PAGES, UnitIdentity, standard
from drivers.devices.scsi.device.mode import Mode
from drivers.devices.scsi.device.primary import PRIMARY, Inventory
from drivers.devices.scsi.device.unit import GOOD, Call, Io, Reply, Unit
from drivers.devices.scsi.sense import Asc, CheckCondition, Sense, SenseKey, illegal
from drivers.storage.workers import IoKind, StoreExtent

__all__ = ["LogicalUnit"]

START, NO_FLUSH = 0x01, 0x04
SAVE_PAGES, PAGE_FORMAT = 0x01, 0x10
LBPME, UNMAPPED_ZEROES = 0x80, 0x40
MANY = 0xFFFF_FFFF
UNMAP_HEADER, UNMAP_ROW = 8, 16
LENGTH_AT = {6: 4, 10: 7, 12: 6, 16: 10}
"""Offset of the field for the number of blocks, per CDB length in bytes."""
NOT_READY = Sense(SenseKey.NOT_READY, Asc.INITIALIZING_COMMAND_REQUIRED)
PROTECTED = Sense(SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)


_STATUS = struct.Struct(">QIB3x")
"""An LBA status descriptor: first block, number of blocks, provisioning status."""
MAPPED, DEALLOCATED = 0, 1


def _descriptors(extents: Sequence[tuple[int, int, bool]], block: int) -> Iterator[tuple[int, int, int]]:
    """Yield first block, number of blocks, and provisioning status of each descriptor."""
    for offset, size, allocated in extents:
        for at in range(0, size, MANY * block):
            count = min(size - at, MANY * block) // block
            yield (offset + at) // block, count, MAPPED if allocated else DEALLOCATED


class LogicalUnit(Unit):
    """A disk. After the store has changed its size, call `ScsiDomain.resized`."""

    def __init__(self, store: SectorStore, identity: UnitIdentity, *, events: int = 0) -> None:
        """``events``: the `AsyncEvent`s that the disk can report."""
        super().__init__()
        self.store = store
        self.identity = identity
        self.events = events
        self.subscribed = 0
        """Events that the initiator has subscribed to."""
        self.mode = Mode()
        self.stopped = False
        self.inventory: Inventory = tuple

    @property
    def block_size(self) -> int:
        """Bytes per block."""
        return self.store.info.block_size

    @property
    def capacity(self) -> int:
        """Number of blocks."""
        return self.store.info.size // self.store.info.block_size

    def plug_in(self, inventory: Inventory) -> None:
        """Report the units of ``inventory``, those of the unit's target, to REPORT LUNS."""
        self.inventory = inventory

    def unplug(self) -> None:
        """Report no units."""
        self.inventory = tuple

    def reset(self, asc: Asc) -> None:
        """Restore the initial state and raise unit attention ``asc``."""
        self.attentions = [asc]
        self.mode = Mode()
        self.stopped = False
        self.subscribed = 0

    def find(self, cdb: bytes) -> ScsiCommand:
        command = super().find(cdb)
        if self.stopped and command.opcode in _MEDIUM:
            raise CheckCondition(NOT_READY)
        if command.opcode in _WRITES and self.store.info.read_only:
            raise CheckCondition(PROTECTED)
        return command

    # Helpers of the commands.

    def range(self, call: Call, most: int | None = None) -> tuple[int, int]:
        """Return offset and size, in bytes, of the command's range. Raises CheckCondition."""
        lba, count = blocks(call.cdb)
        block = self.block_size
        self.check_range(lba, count)
        if most is not None and count > most // block:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, LENGTH_AT[LENGTHS[call.cdb[0] >> 5]], 7)
        return lba * block, count * block

    def check_range(self, lba: int, count: int) -> None:
        """Raise CheckCondition with the first block beyond the end, if the range exceeds the capacity."""
        if lba + count > self.capacity:
            beyond = max(lba, self.capacity)
            raise CheckCondition(Sense(SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE, information=beyond))

    def stable(self, call: Call) -> bool:
        """Return whether a write must be on stable storage before it is answered."""
        return not self.mode.write_cache or bool(call.cdb[0] >> 5 and call.cdb[1] & FUA)

    # Commands.

    def inquiry(self, call: Call) -> Reply:
        evpd, code, allocation = call.cdb[1] & EVPD, call.cdb[2], call.field(3, 2)
        if not evpd:
            if code:
                raise illegal(Asc.INVALID_FIELD_IN_CDB, 2, 7)
            return call.answer(standard(DISK, self.identity), allocation)
        page = PAGES.get(code)
        if page is None:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 2, 7)
        data = page(self.identity, self.store.info)
        return call.answer(bytes((DISK, code)) + len(data).to_bytes(2, "big") + data, allocation)

    def mode_sense(self, call: Call) -> Reply:
        allocation = call.field(7, 2) if call.cdb[0] >> 5 else call.cdb[4]
        return call.answer(self.mode.sense(call.cdb, self.store.info), allocation)

    def mode_select(self, call: Call) -> Reply:
        long = call.cdb[0] >> 5 != 0
        size = call.field(7, 2) if long else call.cdb[4]
        if call.cdb[1] & SAVE_PAGES:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 1, 0)
        if not call.cdb[1] & PAGE_FORMAT:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 1, 4)
        self.mode = self.mode.select(call.parameters(size), self.store.info, long=long)
        return Reply(out_used=size)

    def start_stop(self, call: Call) -> Reply | Io:
        self.stopped = not call.cdb[4] & START
        return Io(self.store, IoKind.FLUSH) if self.stopped and not call.cdb[4] & NO_FLUSH else GOOD

    def read_capacity(self, call: Call) -> Reply:
        last = min(self.capacity - 1, MANY)
        return call.answer(last.to_bytes(4, "big") + self.block_size.to_bytes(4, "big"), 8)

    def read_capacity_16(self, call: Call) -> Reply:
        info = self.store.info
        exponent = max(1, info.physical_block // info.block_size).bit_length() - 1
        thin = LBPME | UNMAPPED_ZEROES if info.unmaps else 0
        data = (self.capacity - 1).to_bytes(8, "big") + self.block_size.to_bytes(4, "big")
        return call.answer((data + bytes((0, exponent, thin))).ljust(32, b"\0"), call.field(10, 4))

    def read(self, call: Call) -> Reply | Io:
        offset, size = self.range(call, LIMITS.transfer)
        fua = bool(call.cdb[0] >> 5 and call.cdb[1] & FUA)
        call.need_room(size)
        return Io(self.store, IoKind.READ, offset, size, in_size=size, stable=fua) if size else GOOD

    def write(self, call: Call) -> Reply | Io:
        offset, size = self.range(call, LIMITS.transfer)
        out = call.payload(size)
        return Io(self.store, IoKind.WRITE, offset, size, out, size, stable=self.stable(call)) if size else GOOD

    def verify(self, call: Call) -> Reply | Io:
        """Compare with data-out (BYTCHK), or without data check that the blocks can be read."""
        check = call.cdb[1] >> 1 & 3
        if check == 2:
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 1, 2)
        offset, size = self.range(call, LIMITS.transfer if check == 1 else None)
        if not size:
            return GOOD
        if check == 0:
            return Io(self.store, IoKind.READ, offset, size)
        sent = size if check == 1 else self.block_size
        return Io(self.store, IoKind.COMPARE, offset, size, call.payload(sent), sent)

    def compare_and_write(self, call: Call) -> Reply | Io:
        offset, size = self.range(call)
        if size > min(LIMITS.compare, 0xFF * self.block_size):
            raise illegal(Asc.INVALID_FIELD_IN_CDB, 13, 7)
        both, out = 2 * size, call.payload(2 * size)
        kind = IoKind.COMPARE_AND_WRITE
        return Io(self.store, kind, offset, size, out, both, stable=self.stable(call)) if size else GOOD

    def lba_status(self, call: Call) -> Reply | Io:
        """Describe the blocks from the given one on: mapped or deallocated (SBC-3 section 5.5)."""
        lba, allocation, block = call.field(2, 8), call.field(10, 4), self.block_size
        self.check_range(lba, 1)
        call.need_room(allocation)

        def render(extents: Sequence[tuple[int, int, bool]]) -> bytes:
            rows = b"".join(_STATUS.pack(*row) for row in _descriptors(extents, block))
            return (len(rows) + 4).to_bytes(4, "big") + bytes(4) + rows

        rest = StoreExtent(lba * block, (self.capacity - lba) * block)
        return Io(self.store, IoKind.STATUS, in_size=allocation, extents=(rest,), render=render) if allocation else GOOD

    def synchronize_cache(self, call: Call) -> Io:
        self.range(call)
        return Io(self.store, IoKind.FLUSH)

    def write_same(self, call: Call) -> Io:
        if not blocks(call.cdb)[1]:  # WSNZ: 0 does not mean "all blocks to the end"
            raise illegal(Asc.INVALID_FIELD_IN_CDB, LENGTH_AT[LENGTHS[call.cdb[0] >> 5]], 7)
        offset, size = self.range(call, LIMITS.unmap)
        unmap = bool(call.cdb[1] & UNMAP) and self.store.info.unmaps
        without = call.cdb[0] == Op.WRITE_SAME_16 and call.cdb[1] & NDOB
        pattern = b"" if without else call.parameters(self.block_size)
        stable = not self.mode.write_cache
        if not any(pattern):
            extents = (StoreExtent(offset, size, unmap),)
            return Io(self.store, IoKind.WRITE_ZEROES, out_used=len(pattern), extents=extents, stable=stable)
        return Io(self.store, IoKind.FILL, offset, size, out_used=len(pattern), pattern=pattern, stable=stable)

    def unmap(self, call: Call) -> Reply | Io:
        """Ignore a descriptor that is incomplete or cut by either length (SBC-3 section 5.28.2)."""
        size = call.field(7, 2)
        if not self.store.info.unmaps:
            raise illegal(Asc.INVALID_COMMAND_OPERATION_CODE, 0)
        data = call.parameters(size)
        if not size:
            return GOOD
        if size < UNMAP_HEADER:
            raise illegal(Asc.PARAMETER_LIST_LENGTH_ERROR)
        rows = min(int.from_bytes(data[2:4], "big"), size - UNMAP_HEADER) // UNMAP_ROW * UNMAP_ROW
        if rows > LIMITS.ranges * UNMAP_ROW:
            raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, 2, 7, cdb=False)
        block, whole = self.block_size, 0
        extents = []
        for at in range(UNMAP_HEADER, UNMAP_HEADER + rows, UNMAP_ROW):
            lba, count = int.from_bytes(data[at : at + 8], "big"), int.from_bytes(data[at + 8 : at + 12], "big")
            self.check_range(lba, count)
            whole += count * block
            if whole > LIMITS.unmap:
                raise illegal(Asc.INVALID_FIELD_IN_PARAMETER_LIST, at + 8, 7, cdb=False)
            if count:
                extents.append(StoreExtent(lba * block, count * block, unmap=True))
        if not extents:
            return Reply(out_used=size)
        return Io(self.store, IoKind.WRITE_ZEROES, out_used=size, extents=extents, stable=not self.mode.write_cache)


LogicalUnit.handlers = {
    **PRIMARY,
    (Op.INQUIRY, None): LogicalUnit.inquiry,
    (Op.MODE_SENSE_6, None): LogicalUnit.mode_sense,
    (Op.MODE_SENSE_10, None): LogicalUnit.mode_sense,
    (Op.MODE_SELECT_6, None): LogicalUnit.mode_select,
    (Op.MODE_SELECT_10, None): LogicalUnit.mode_select,
    (Op.START_STOP_UNIT, None): LogicalUnit.start_stop,
    (Op.READ_CAPACITY_10, None): LogicalUnit.read_capacity,
    (Op.SERVICE_ACTION_IN_16, READ_CAPACITY_16): LogicalUnit.read_capacity_16,
    **{(op, None): LogicalUnit.read for op in (Op.READ_6, Op.READ_10, Op.READ_12, Op.READ_16)},
    **{(op, None): LogicalUnit.write for op in (Op.WRITE_6, Op.WRITE_10, Op.WRITE_12, Op.WRITE_16)},
    **{(op, None): LogicalUnit.verify for op in (Op.VERIFY_10, Op.VERIFY_12, Op.VERIFY_16)},
    **{(op, None): LogicalUnit.synchronize_cache for op in (Op.SYNCHRONIZE_CACHE_10, Op.SYNCHRONIZE_CACHE_16)},
    **{(op, None): LogicalUnit.write_same for op in (Op.WRITE_SAME_10, Op.WRITE_SAME_16)},
    (Op.UNMAP, None): LogicalUnit.unmap,
    (Op.COMPARE_AND_WRITE, None): LogicalUnit.compare_and_write,
    (Op.SERVICE_ACTION_IN_16, GET_LBA_STATUS): LogicalUnit.lba_status,
}
_WRITES = frozenset(
    (
        *(Op.WRITE_6, Op.WRITE_10, Op.WRITE_12, Op.WRITE_16, Op.WRITE_SAME_10, Op.WRITE_SAME_16),
        *(Op.UNMAP, Op.COMPARE_AND_WRITE),
    )
)
_MEDIUM = _WRITES | {
    Op.TEST_UNIT_READY,
    Op.READ_6,
    Op.READ_10,
    Op.READ_12,
    Op.READ_16,
    Op.VERIFY_10,
    Op.VERIFY_12,
    Op.VERIFY_16,
    Op.READ_CAPACITY_10,
    Op.SERVICE_ACTION_IN_16,
    Op.SYNCHRONIZE_CACHE_10,
    Op.SYNCHRONIZE_CACHE_16,
}
