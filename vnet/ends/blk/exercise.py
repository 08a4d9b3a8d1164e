"""Exercise of a block device: write, read and compare sectors."""

from __future__ import annotations

import hashlib
import random

from vnet.ends.blk.end import DiskEnd, StoreEnd
from vnet.ends.blk.spec import BlkSpec
from vnet.ends.running import EXERCISE_SIZE, Exercise, RunningDevice

__all__ = ["EXERCISE"]


async def exercise(device: RunningDevice[BlkSpec, tuple[DiskEnd, StoreEnd]]) -> None:
    disk = device.ends[0].disk
    data = random.Random(EXERCISE_SIZE).randbytes(EXERCISE_SIZE)
    await disk.write(EXERCISE_SIZE, data, fua=True)
    _compare(await disk.read(EXERCISE_SIZE, EXERCISE_SIZE), data)
    await disk.write_zeroes(0, 2 * EXERCISE_SIZE, unmap=True)
    _compare(await disk.read(0, 2 * EXERCISE_SIZE), bytes(2 * EXERCISE_SIZE))
    assert (await disk.get_id()).decode() == device.name


def _compare(read: bytes, data: bytes) -> None:
    assert hashlib.sha256(read).digest() == hashlib.sha256(data).digest(), "the data read differ from the data written"


EXERCISE = Exercise(exercise, 'driver = { buffers = 8 }\ndevice = { store = "memory", size = 8 }', kept=True)
