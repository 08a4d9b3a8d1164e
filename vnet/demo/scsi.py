"""Of a SCSI host: what a unit says of itself, then sequential and random commands, through the initiator's API."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from drivers.devices.scsi import Initiator, cdb
from vnet.demo.base import Demo, DemoSettings, Sections, ends_of
from vnet.ends.scsi import InitiatorEnd
from vnet.system.world import World
from vnet.topology import Topology
from vnet.topology.samples import built_in
from vnet.traffic.kernel import Plan, TextResult, TrafficError

__all__ = ["SCSI"]

NAME = "scsi0"
SIZE = 64 << 20
BLOCK = 512
PART = 256 << 10
SEQUENTIAL_DEPTH, RANDOM_DEPTH = 4, 16


def scsi_topology(settings: DemoSettings) -> Topology:
    """One unit whose sectors are in a file."""
    path = json.dumps(str(settings.folder / "unit.img"))
    keys = f'device = {{ luns = [{{ store = "file", path = {path}, size = {SIZE >> 20} }}] }}'
    return built_in("scsi", settings.transport, keys, mode=settings.mode, name=NAME)


@asynccontextmanager
async def plan_scsi(world: World, settings: DemoSettings) -> AsyncIterator[Sections]:
    """Nothing but this process is needed."""
    end = world.devices[NAME].driver_end
    assert isinstance(end, InitiatorEnd)
    use, (here, there) = end.initiator, ends_of(world, NAME)
    yield {
        "unit": [
            Plan("INQUIRY", here, there, partial(_inquiry, use)),
            Plan("READ CAPACITY (16)", here, there, partial(_capacity, use)),
        ],
        "sequential": [
            Plan("64 MiB written", here, there, partial(_sequential, use, write=True)),
            Plan("64 MiB read and compared", there, here, partial(_sequential, use, write=False)),
        ],
        "random": [Plan("4 KiB random reads, depth 16", there, here, partial(_random, use, settings.seconds))],
    }


async def _execute(use: Initiator, command: bytes, *, data_out: bytes = b"", data_in: int = 0) -> bytes:
    """Raises TrafficError for anything but GOOD."""
    result = await use.execute(command, data_out=data_out, data_in=data_in)
    if not result.good:
        raise TrafficError(f"SCSI command {command[0]:#04x}: {result}")
    return result.data


async def _inquiry(use: Initiator) -> TextResult:
    data = await _execute(use, cdb.inquiry(), data_in=96)
    words = [data[start:end].decode("ascii").strip() for start, end in ((8, 16), (16, 32), (32, 36))]
    return TextResult(", ".join(words), dict(zip(("vendor", "product", "revision"), words, strict=True)))


async def _capacity(use: Initiator) -> TextResult:
    data = await _execute(use, cdb.read_capacity(), data_in=32)
    blocks, size = int.from_bytes(data[:8], "big") + 1, int.from_bytes(data[8:12], "big")
    failed = "" if blocks * size == SIZE else f"the unit has {SIZE} bytes"
    return TextResult(f"{blocks} blocks of {size} bytes", {"blocks": blocks, "block_size": size}, failed)


async def _sequential(use: Initiator, *, write: bool) -> TextResult:
    """The same bytes each time, so that the second run knows what the first one wrote."""
    data, count, wrong = random.Random(1).randbytes(PART), PART // BLOCK, 0

    async def one(at: int) -> None:
        nonlocal wrong
        if write:
            await _execute(use, cdb.write(at * count, count), data_out=data)
        else:
            wrong += await _execute(use, cdb.read(at * count, count), data_in=PART) != data

    began = trio.current_time()
    await _together(SEQUENTIAL_DEPTH, [partial(one, at) for at in range(SIZE // PART)])
    if write:
        await _execute(use, cdb.synchronize_cache())
    rate = SIZE / (trio.current_time() - began)
    failed = f"{wrong} commands read what was never written" if wrong else ""
    return TextResult(f"{rate / 1e6:.0f} MB/s" + (", flushed" if write else ""), {"bytes_per_second": rate}, failed)


async def _random(use: Initiator, seconds: float) -> TextResult:
    dice, count, done = random.Random(1), 4096 // BLOCK, 0
    began = trio.current_time()

    async def reader() -> None:
        nonlocal done
        while trio.current_time() < began + seconds:
            await _execute(use, cdb.read(dice.randrange(SIZE // 4096) * count, count), data_in=4096)
            done += 1

    await _together(RANDOM_DEPTH, [reader] * RANDOM_DEPTH)
    rate = done / (trio.current_time() - began)
    return TextResult(f"{rate:,.0f} IOPS", {"iops": rate})


async def _together(depth: int, calls: list[Callable[[], Awaitable[None]]]) -> None:
    """All of them, ``depth`` at a time. Raises the first error alone."""
    room = trio.CapacityLimiter(depth)

    async def run(call: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await call()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(run, call)


SCSI = Demo("commands", scsi_topology, plan_scsi)
