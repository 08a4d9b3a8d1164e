"""SCSI command blocks with their parameter lists, and logs of chains in flight."""

from __future__ import annotations

from drivers.devices.scsi import Response
from drivers.devices.scsi.device.request import ControlRequest, VhostScsiRequest
from drivers.devices.scsi.device.unit import Io, Reply
from drivers.devices.scsi.layout import ScsiConfig
from drivers.devices.scsi.sense import Sense
from drivers.storage.workers import IoKind
from fuzz.source import Source
from rings.chain import total
from rings.errors import BadChain, MemoryFault, RemoteRingError
from rings.formats import FORMATS
from rings.memory import Addr
from support.rigs.packed import PackedRig
from support.rigs.ring import SPOT, Rig
from support.rigs.scsi import make_unit

__all__ = ["packed_inflight", "scsi_cdb", "scsi_request", "split_inflight"]

CDB_SIZE = 32
STEPS_MAX = 12
BLOCKS = 64
OPCODES = bytes.fromhex("00030812151a1b25282a2f35414243555a8889a8aa8a8f9193949e9fa0a3")
"""Codes that mean something to a disk, among others."""


def scsi_cdb(data: bytes) -> None:
    """Commands to one disk, with parameter lists and with buffers of other sizes than the command says."""
    source = Source(data)
    unit = make_unit(blocks=BLOCKS, block=source.pick((512, 4096)), read_only=source.flag())
    size = BLOCKS * unit.block_size
    for _ in range(STEPS_MAX):
        if not source.left:
            break
        cdb = bytes((source.pick(OPCODES) if source.flag() else source.byte(),)) + source.blob(CDB_SIZE - 1)
        out = source.blob(64)
        views = [memoryview(out)] if out else []
        room = source.number(4)
        outcome = unit.perform(cdb.ljust(CDB_SIZE, b"\0"), views, room)
        if isinstance(outcome, Reply):
            assert len(outcome.data) <= room
            assert outcome.out_used <= len(out)
            if outcome.sense is not None:
                assert not outcome.data
                assert Sense.parse(outcome.sense.emit()) is not None
        elif isinstance(outcome, Io):
            _check_io(outcome, size, len(out), room)
        else:
            assert outcome is Response.OVERRUN


def _check_io(io: Io, size: int, out: int, room: int) -> None:
    """An I/O lies on the disk, in the data of the driver, and in its buffer."""
    assert 0 <= io.offset <= io.offset + io.size <= size
    assert io.out_used <= out
    assert io.in_size <= room
    if io.kind in (IoKind.WRITE, IoKind.READ):
        assert total(io.out) <= out
    for extent in io.extents:
        assert 0 <= extent.offset <= extent.offset + extent.size <= size


def scsi_request(data: bytes) -> None:
    """Chains of the request queue and of the control queue, and the sense data of a device."""
    source = Source(data)
    config = ScsiConfig(cdb_size=source.number(1), sense_size=source.number(1))
    readable = source.cut(source.blob(200))
    writable = source.cut(bytearray(source.number(1)))
    chain = 5, readable, writable
    try:
        request = VhostScsiRequest.parse(chain, config)
    except BadChain:
        pass
    else:
        if request.complete:
            assert len(request.cdb) == config.cdb_size
            request.answer(Response.OK, 0, Sense.parse(source.blob(32)), min(source.byte(), request.out_size))
    try:
        command = ControlRequest.parse(chain)
    except BadChain:
        pass
    else:
        assert command.answer(Response.OK) <= total(writable)
    Sense.parse(source.rest())


def _inflight(data: bytes, packed: bool) -> None:
    """Resume a ring at what a log says that a back end before it had in flight."""
    source = Source(data)
    form = FORMATS["packed" if packed else "split"]
    rig = PackedRig(4, memory=1 << 15) if packed else Rig(4, memory=1 << 15)
    log = bytearray(form.log_size(4))
    driver = rig.driver(memory=rig.memory)
    for token in range(3):
        driver.add([(Addr(SPOT), 16)], [(Addr(SPOT + 16), 16)], token)
    driver.publish()
    before = form.with_log(rig.device(), memoryview(log), 4)
    taken = before.getdescs(source.byte() & 3)
    before.complete_each([(head, 0) for head, _, _ in taken[: source.byte() & 1]])
    before.publish()
    before.close()
    for _ in range(source.byte() & 7):
        source.overwrite(log)
    device = rig.device(source.byte() & 1)
    try:
        ring = form.with_log(device, memoryview(log), 4)
    except RemoteRingError:
        device.close()
        return
    try:
        taken = ring.getdescs(8)
    except (RemoteRingError, MemoryFault):
        ring.latch()
        taken = []
    assert len(taken) <= rig.num
    if not ring.broken:
        ring.complete_each([(head, 0) for head, _, _ in taken])
        ring.publish()
    ring.close()
    rig.memory.check()


def split_inflight(data: bytes) -> None:
    _inflight(data, packed=False)


def packed_inflight(data: bytes) -> None:
    _inflight(data, packed=True)
