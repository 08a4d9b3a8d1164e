"""A SCSI host between two hosts."""

from __future__ import annotations

import os

from drivers.devices.scsi import (
    Asc,
    Lun,
    Response,
    ScsiResult,
    ScsiStatus,
    SenseKey,
    Tmf,
)
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.cdb import Op
from vnet.testing.scsi import DISK, ScsiPair

KIB, MIB = 1 << 10, 1 << 20
TWO = (Lun(0, 0), Lun(0, 1), Lun(4, 300))


def sense(result: ScsiResult) -> tuple[int, int]:
    assert (result.response, result.status) == (Response.OK, ScsiStatus.CHECK_CONDITION)
    actual = result.sense
    assert actual is not None
    return actual.key, actual.asc


async def exercise(pair: ScsiPair) -> None:
    """One request to a disk."""
    initiator, block = pair.initiator, pair.unit().block_size
    assert await initiator.scan() == sorted(pair.domain.units)
    actual = await initiator.execute(commands.inquiry(255, 0x80), data_in=255)
    assert actual.data[4:] == b"scsi0-0-0"
    assert actual.residual == 255 - len(actual.data)
    capacity = await initiator.execute(commands.read_capacity(), data_in=32)
    assert int.from_bytes(capacity.data[:8], "big") == pair.unit().capacity - 1
    data = os.urandom(256 * KIB)
    assert (await pair.write(3, data, fua=True)).good
    assert (await pair.read(3, len(data) // block)).data == data
    for cdb, out in (
        (commands.synchronize_cache(), b""),
        (commands.write_same(8, 4), b"pattern!" * (block // 8)),
        (commands.write_same(12, 4, zeroes=True), b""),
        (bytes((Op.VERIFY_16, 2)) + (8).to_bytes(8, "big") + b"\0\0\0\4\0\0", b"pattern!" * (block // 2)),
        commands.unmap((16, 8)),
    ):
        assert (await initiator.execute(cdb, data_out=out)).good
    wanted = data[: 5 * block] + b"pattern!" * (block // 2) + bytes(12 * block) + data[21 * block :]
    assert (await pair.read(3, len(data) // block)).data == wanted
    assert sense(await initiator.execute(b"\x5e" + bytes(9))) == (
        SenseKey.ILLEGAL_REQUEST,
        Asc.INVALID_COMMAND_OPERATION_CODE,
    )
    assert await initiator.manage(Tmf.QUERY_TASK_SET, DISK) is Response.OK
    assert await initiator.manage(Tmf.LOGICAL_UNIT_RESET, DISK) is Response.OK
    after = await initiator.execute(commands.unit_ready(), attention=True)
    assert sense(after) == (SenseKey.UNIT_ATTENTION, Asc.BUS_DEVICE_RESET)
