"""The load of a disk: tasks that write, read, zero and discard blocks of their own, and know what each must hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from random import Random

import trio

from drivers.devices.blk import Disk, DiskError
from vnet.ends.blk.end import DiskEnd, StoreEnd
from vnet.ends.blk.spec import BlkSpec
from vnet.ends.load import Load, Loads, Streams
from vnet.ends.running import RunningDevice

__all__ = ["LOADS"]

TASKS = 3
"""Tasks that use the disk at the same time, each with a range of its own."""
RANGE = 128 << 10
"""Bytes of the range of each task."""
LONGEST = 64 << 10
"""Most bytes of one operation."""


class BlkLoad(Load):
    """Reads and writes of a disk."""

    def __init__(self, device: str, disk: Disk, read_only: bool, streams: Streams) -> None:
        super().__init__("blk", device)
        self._disk = disk
        self._read_only = read_only
        self._tasks = [(RANGE * number, streams(f"blk {number}")) for number in range(TASKS)]
        self._known: dict[int, bytes] = {}
        """Content of each block that is known, by its offset."""

    async def round(self) -> None:
        geometry = await self._disk.wait_online()
        async with trio.open_nursery() as nursery:
            for start, rng in self._fitting(geometry.size):
                nursery.start_soon(self._operate, start, geometry.block_size, bool(geometry.discard_max), rng)
        self.figures.rounds += 1

    async def finish(self) -> None:
        """Read all ranges."""
        geometry = await self._disk.wait_online()
        with self._requests():
            for at in range(0, len(self._fitting(geometry.size)) * RANGE, LONGEST):
                await self._read(at, LONGEST, geometry.block_size)

    def _fitting(self, size: int) -> Sequence[tuple[int, Random]]:
        """Return the tasks whose ranges a disk of ``size`` bytes has."""
        return self._tasks[: size // RANGE]

    async def _operate(self, start: int, block: int, discards: bool, rng: Random) -> None:
        first, last = sorted(rng.randrange(RANGE // block) for _ in range(2))
        at, size = start + first * block, min((last - first + 1) * block, LONGEST)
        choice = rng.random()
        with self._requests():
            if choice < 0.45 or self._read_only:
                await self._read(at, size, block)
            elif choice < 0.85:
                data = rng.randbytes(size)
                self._forget(at, size, block)
                await self._disk.write(at, data, fua=choice < 0.5)
                self._learn(at, data, block)
            elif choice < 0.95 or not discards:
                self._forget(at, size, block)
                await self._disk.write_zeroes(at, size, unmap=choice < 0.9)
                self._learn(at, bytes(size), block)
            else:
                self._forget(at, size, block)  # a device may ignore it, or return anything afterwards
                await self._disk.discard(at, size)

    @contextmanager
    def _requests(self) -> Iterator[None]:
        """Re-raise the error of a request as one of the load."""
        try:
            yield
        except DiskError as error:
            raise self.error(str(error)) from None

    async def _read(self, at: int, size: int, block: int) -> None:
        data = await self._disk.read(at, size)
        for offset in range(0, size, block):
            expected, actual = self._known.get(at + offset), data[offset : offset + block]
            if expected is not None and actual != expected:
                wrong = next(i for i, (a, b) in enumerate(zip(actual, expected, strict=True)) if a != b)
                values = f"{actual[wrong]:#04x} instead of {expected[wrong]:#04x}"
                raise self.error(f"byte {at + offset + wrong} is {values} in a read of {size} bytes at {at}")
        self._learn(at, data, block)  # from now on each read returns the same
        self.figures.bytes += size

    def _learn(self, at: int, data: bytes, block: int) -> None:
        self._known |= {at + offset: data[offset : offset + block] for offset in range(0, len(data), block)}

    def _forget(self, at: int, size: int, block: int) -> None:
        for offset in range(at, at + size, block):
            self._known.pop(offset, None)


@asynccontextmanager
async def open_loads(
    device: RunningDevice[BlkSpec, tuple[DiskEnd, StoreEnd]], names: Sequence[str], streams: Streams
) -> AsyncIterator[Sequence[Load]]:
    yield [BlkLoad(device.name, device.ends[0].disk, device.spec.device.read_only, streams) for _ in names]


LOADS = Loads(
    ("blk",),
    open_loads,
    'driver = { buffers = 4 }\ndevice = { store = "memory", size = 4 }',
)
