"""The load of a SCSI host: commands to each logical unit, whose blocks must hold what was written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from drivers.devices.scsi import Initiator, Lun, ScsiResult, cdb
from drivers.devices.scsi.driver.result import ScsiError
from drivers.devices.scsi.layout import Response
from drivers.devices.scsi.sense import SenseKey
from vnet.ends.load import Load, Loads, Streams
from vnet.ends.running import RunningDevice
from vnet.ends.scsi.end import InitiatorEnd, TargetsEnd
from vnet.ends.scsi.spec import LunSpec, ScsiSpec

__all__ = ["LOADS"]

SPAN = 256
"""Blocks of a unit that the load uses, from the first one."""
MOST = 64
"""Most blocks of one command."""
RETRIES = 10
"""Repetitions of a command that a reset ended, or that a unit attention refused."""
REPEATED = frozenset({Response.RESET, Response.ABORTED, Response.BUSY})
"""Responses after which a program sends a command again."""


class ScsiLoad(Load):
    """Commands to the units of one SCSI host."""

    def __init__(self, device: str, initiator: Initiator, units: Sequence[LunSpec], rng: Random) -> None:
        super().__init__("scsi", device)
        self._initiator = initiator
        self._units = units
        self._rng = rng
        self._known: dict[tuple[Lun, int], bytes] = {}

    async def round(self) -> None:
        for unit in self._units:
            await self._command(unit)
        self.figures.rounds += 1

    async def finish(self) -> None:
        """Read all blocks that were used."""
        for unit in self._units:
            for lba in range(0, SPAN, MOST):
                await self._read(unit, lba, MOST)

    async def _command(self, unit: LunSpec) -> None:
        lba, count, choice = self._rng.randrange(SPAN - MOST), self._rng.randint(1, MOST), self._rng.random()
        if choice < 0.45 or unit.read_only:
            await self._read(unit, lba, count)
        elif choice < 0.8:
            data = self._rng.randbytes(count * unit.block_size)
            await self._good(cdb.write(lba, count, fua=choice < 0.5), unit, data)
            for at in range(count):
                self._known[unit.address, lba + at] = data[at * unit.block_size : (at + 1) * unit.block_size]
        elif choice < 0.9:
            await self._good(cdb.write_same(lba, count, zeroes=True), unit, bytes(unit.block_size))
            self._known |= {(unit.address, lba + at): bytes(unit.block_size) for at in range(count)}
        elif choice < 0.95:
            await self._good(cdb.synchronize_cache(), unit)
        else:
            await self._good(cdb.inquiry(), unit, size=96)

    async def _read(self, unit: LunSpec, lba: int, count: int) -> None:
        size = unit.block_size
        result = await self._good(cdb.read(lba, count), unit, size=count * size)
        if len(result.data) != count * size:
            raise self.error(f"a read of {count * size} bytes returned {len(result.data)}")
        for at in range(count):
            actual = result.data[at * size : (at + 1) * size]
            if self._known.setdefault((unit.address, lba + at), actual) != actual:
                raise self.error(f"block {lba + at} of unit {unit.address} has other data than were written there")
        self.figures.bytes += count * size

    async def _good(self, command: bytes, unit: LunSpec, data: bytes = b"", size: int = 0) -> ScsiResult:
        """Execute a command until it succeeds, at most `RETRIES` times again. Raises LoadError."""
        what = f"command {command[0]:#04x} to unit {unit.address}"
        for _ in range(RETRIES + 1):
            try:
                result = await self._initiator.execute(command, lun=unit.address, data_out=data, data_in=size)
            except ScsiError as error:
                if error.response not in REPEATED:
                    raise self.error(str(error)) from None
            else:
                if result.good:
                    return result
                if result.sense is None or result.sense.key != SenseKey.UNIT_ATTENTION:
                    raise self.error(f"{what} ended with status {result.status:#04x} and {result.sense}")
            self.figures.retries += 1
        raise self.error(f"{what} did not succeed in {RETRIES + 1} attempts")


@asynccontextmanager
async def open_loads(
    device: RunningDevice[ScsiSpec, tuple[InitiatorEnd, TargetsEnd]], names: Sequence[str], streams: Streams
) -> AsyncIterator[Sequence[Load]]:
    units = [unit for unit in device.spec.device.luns if unit.size]
    yield [ScsiLoad(device.name, device.ends[0].initiator, units, streams("scsi")) for _ in names]


LOADS = Loads(
    ("scsi",),
    open_loads,
    'driver = { buffers = 4 }\ndevice = { luns = [{ store = "memory", size = 4 }] }',
)
