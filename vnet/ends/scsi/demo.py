"""Demonstration of a SCSI host: INQUIRY, READ CAPACITY, sequential and random commands by the initiator's API."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from drivers.devices.scsi import Initiator, cdb
from vnet.ends.running import Demo, DemoSettings, RunningDevice, Sections
from vnet.ends.scsi.end import InitiatorEnd, TargetsEnd
from vnet.ends.scsi.spec import ScsiSpec
from vnet.errors import TrafficError
from vnet.traffic.kernel import Plan, TextResult

__all__ = ["DEMO"]

SIZE = 64 << 20
"""Bytes of the unit."""
BLOCK = 512
"""Bytes of a block."""
PART = 256 << 10
"""Bytes of a sequential command."""
SEQUENTIAL_DEPTH, RANDOM_DEPTH = 4, 16
"""Commands in flight."""


def keys(settings: DemoSettings) -> str:
    """Return the keys of a device with one unit on a file."""
    path = json.dumps(str(settings.folder / "unit.img"))
    return f'device = {{ luns = [{{ store = "file", path = {path}, size = {SIZE >> 20} }}] }}'


@asynccontextmanager
async def plan(
    running: RunningDevice[ScsiSpec, tuple[InitiatorEnd, TargetsEnd]], settings: DemoSettings
) -> AsyncIterator[Sections]:
    """Plan commands by the initiator's API, without other programs."""
    initiator, (driver, device) = running.ends[0].initiator, running.hosts
    yield {
        "unit": [
            Plan("INQUIRY", driver, device, partial(_inquiry, initiator)),
            Plan("READ CAPACITY (16)", driver, device, partial(_capacity, initiator)),
        ],
        "sequential": [
            Plan("64 MiB written", driver, device, partial(_sequential, initiator, write=True)),
            Plan("64 MiB read and compared", device, driver, partial(_sequential, initiator, write=False)),
        ],
        "random": [Plan("4 KiB random reads, depth 16", device, driver, partial(_random, initiator, settings.seconds))],
    }


async def _execute(initiator: Initiator, command: bytes, *, data_out: bytes = b"", data_in: int = 0) -> bytes:
    """Execute a command and return its data. Raises TrafficError unless its status is GOOD."""
    result = await initiator.execute(command, data_out=data_out, data_in=data_in)
    if not result.good:
        raise TrafficError(f"SCSI command {command[0]:#04x}: {result}")
    return result.data


async def _inquiry(initiator: Initiator) -> TextResult:
    data = await _execute(initiator, cdb.inquiry(), data_in=96)
    words = [data[start:end].decode("ascii").strip() for start, end in ((8, 16), (16, 32), (32, 36))]
    return TextResult(", ".join(words), dict(zip(("vendor", "product", "revision"), words, strict=True)))


async def _capacity(initiator: Initiator) -> TextResult:
    data = await _execute(initiator, cdb.read_capacity(), data_in=32)
    blocks, size = int.from_bytes(data[:8], "big") + 1, int.from_bytes(data[8:12], "big")
    failed = "" if blocks * size == SIZE else f"the capacity must be {SIZE} bytes"
    return TextResult(f"{blocks} blocks of {size} bytes", {"blocks": blocks, "block_size": size}, failed)


async def _sequential(initiator: Initiator, *, write: bool) -> TextResult:
    """Write or compare the unit. The data are the same in each run, so that a second run can compare them."""
    data, count, wrong = random.Random(1).randbytes(PART), PART // BLOCK, 0

    async def one(at: int) -> None:
        nonlocal wrong
        if write:
            await _execute(initiator, cdb.write(at * count, count), data_out=data)
        else:
            wrong += await _execute(initiator, cdb.read(at * count, count), data_in=PART) != data

    began = trio.current_time()
    await _together(SEQUENTIAL_DEPTH, [partial(one, at) for at in range(SIZE // PART)])
    if write:
        await _execute(initiator, cdb.synchronize_cache())
    rate = SIZE / (trio.current_time() - began)
    failed = f"{wrong} commands read other data than were written" if wrong else ""
    return TextResult(f"{rate / 1e6:.0f} MB/s" + (", flushed" if write else ""), {"bytes_per_second": rate}, failed)


async def _random(initiator: Initiator, seconds: float) -> TextResult:
    dice, count, done = random.Random(1), 4096 // BLOCK, 0
    began = trio.current_time()

    async def reader() -> None:
        nonlocal done
        while trio.current_time() < began + seconds:
            await _execute(initiator, cdb.read(dice.randrange(SIZE // 4096) * count, count), data_in=4096)
            done += 1

    await _together(RANDOM_DEPTH, [reader] * RANDOM_DEPTH)
    rate = done / (trio.current_time() - began)
    return TextResult(f"{rate:,.0f} IOPS", {"iops": rate})


async def _together(depth: int, calls: list[Callable[[], Awaitable[None]]]) -> None:
    """Run all ``calls``, at most ``depth`` at the same time. Raises only the first error."""
    room = trio.CapacityLimiter(depth)

    async def run(call: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await call()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(run, call)


DEMO = Demo("commands by the Python API", "commands", plan, keys)
