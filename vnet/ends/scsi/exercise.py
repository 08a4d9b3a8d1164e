"""Exercise of a SCSI host: commands to one logical unit, and blocks written, read and compared."""

from __future__ import annotations

import random

from drivers.devices.scsi import cdb
from vnet.ends.running import EXERCISE_SIZE, Exercise, RunningDevice
from vnet.ends.scsi.end import InitiatorEnd, TargetsEnd
from vnet.ends.scsi.spec import ScsiSpec

__all__ = ["EXERCISE"]


async def exercise(device: RunningDevice[ScsiSpec, tuple[InitiatorEnd, TargetsEnd]]) -> None:
    initiator = device.ends[0].initiator
    data, blocks = random.Random(EXERCISE_SIZE).randbytes(EXERCISE_SIZE), EXERCISE_SIZE // 512
    for command, out, size in (
        (cdb.inquiry(), b"", 96),
        (cdb.read_capacity(), b"", 32),
        (cdb.write(blocks, blocks), data, 0),
        (cdb.synchronize_cache(), b"", 0),
        (cdb.read(blocks, blocks), b"", EXERCISE_SIZE),
    ):
        result = await initiator.execute(command, data_out=out, data_in=size)
        assert result.good, result
        assert size != EXERCISE_SIZE or result.data == data, "the data read differ from the data written"


KEYS = 'driver = { buffers = 8 }\ndevice = { luns = [{ store = "memory", size = 8 }] }'
EXERCISE = Exercise(exercise, KEYS, kept=True)
