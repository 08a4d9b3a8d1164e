"""Demonstration of a block device: its Python API and NBD clients use a file on the other host."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from drivers.devices.blk import Disk
from vnet.ends.blk.end import DiskEnd, StoreEnd
from vnet.ends.blk.spec import BlkSpec, nbd_uri
from vnet.ends.running import Demo, DemoSettings, RunningDevice, Sections
from vnet.linux.threads import run_in_thread
from vnet.traffic.disk import fill, fio, nbdcopy, sha256
from vnet.traffic.kernel import Plan, TextResult

__all__ = ["DEMO"]

SIZE = 256 << 20
"""Bytes of the disk."""
PART = 1 << 20
"""Bytes of an API request."""
API_DEPTH = 4
"""Requests of the API in flight."""
VERIFIED = 16 << 20
"""Bytes that fio writes, reads and compares."""
DEPTH = 16
"""Requests of fio in flight."""


def keys(settings: DemoSettings) -> str:
    """Return the keys of a device with a file behind it and an NBD export at the driver's end."""
    socket, path = (json.dumps(str(settings.folder / name)) for name in ("disk.sock", "disk.img"))
    return f"""
driver = {{ nbd = {socket} }}
device = {{ store = "file", path = {path}, size = {SIZE >> 20} }}
"""


@asynccontextmanager
async def plan(
    running: RunningDevice[BlkSpec, tuple[DiskEnd, StoreEnd]], settings: DemoSettings
) -> AsyncIterator[Sections]:
    """Plan sequential and random I/O by the API and by programs; written data are read and compared."""
    disk, socket = running.ends[0].disk, running.spec.driver.nbd
    assert socket is not None
    uri = nbd_uri(socket, running.name)
    source, copied = settings.folder / "source.img", settings.folder / "copied.img"
    await run_in_thread(fill, source, SIZE)
    driver, device = running.hosts
    compared = copied, source
    copying, random_io = ("nbdcopy",), ("fio",)
    yield {
        "api": [
            Plan("API, 64 MiB written", driver, device, partial(_api, disk, write=True)),
            Plan("API, 64 MiB read and compared", device, driver, partial(_api, disk, write=False)),
        ],
        "nbdcopy": [
            Plan("nbdcopy, 256 MiB written", driver, device, partial(_copy, source, uri), copying),
            Plan(
                "nbdcopy, 256 MiB read, hash compared",
                device,
                driver,
                partial(_copy, uri, copied, compared),
                copying,
            ),
        ],
        "fio": [
            Plan("fio, 4 KiB random reads, depth 16", device, driver, partial(_fio, uri, settings.seconds), random_io),
            Plan("fio, 4 KiB random writes, each compared", driver, device, partial(_verify, uri), random_io),
        ],
    }


async def _api(disk: Disk, *, write: bool) -> TextResult:
    """Write or compare 64 MiB. The data are the same in each run, so that a second run can compare them."""
    data, count, wrong = random.Random(1).randbytes(PART), 64, 0
    room = trio.CapacityLimiter(API_DEPTH)

    async def one(at: int) -> None:
        nonlocal wrong
        async with room:
            if write:
                await disk.write(at * PART, data)
            else:
                wrong += await disk.read(at * PART, PART) != data

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for at in range(count):
            nursery.start_soon(one, at)
    if write:
        await disk.flush()
    rate = count * PART / (trio.current_time() - began)
    failed = f"{wrong} MiB differ from the written data" if wrong else ""
    return TextResult(f"{rate / 1e6:.0f} MB/s" + (", flushed" if write else ""), {"bytes_per_second": rate}, failed)


async def _copy(source: Path | str, target: Path | str, compared: tuple[Path, Path] | None = None) -> TextResult:
    seconds = await nbdcopy(source, target, SIZE)
    figures: dict[str, float | int | str] = {"bytes_per_second": SIZE / seconds, "bytes": SIZE}
    text, failed = f"{SIZE / seconds / 1e6:.0f} MB/s", ""
    if compared is not None:
        actual, expected = [await run_in_thread(sha256, path) for path in compared]
        figures["sha256"] = actual
        text += f", SHA-256 {actual[:12]}… as the source"
        failed = "" if actual == expected else "the data read differ from the data written"
    return TextResult(text if not failed else f"{SIZE / seconds / 1e6:.0f} MB/s", figures, failed)


async def _fio(uri: str, seconds: float) -> TextResult:
    rate = await fio(uri, "randread", SIZE, seconds=seconds, depth=DEPTH)
    return TextResult(f"{rate:,.0f} IOPS", {"iops": rate})


async def _verify(uri: str) -> TextResult:
    rate = await fio(uri, "randwrite", VERIFIED, depth=DEPTH, verify=True)
    return TextResult(f"{rate:,.0f} IOPS, all read back as written", {"iops": rate})


DEMO = Demo("nbdcopy, compared by hash, and fio", "requests", plan, keys, name="disk0")
