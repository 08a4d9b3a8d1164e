"""Commands of a disk that need the whole device: COMPARE AND WRITE, and GET LBA STATUS."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from drivers.devices.scsi import Asc, LogicalUnit, Lun, Response, ScsiResult, SenseKey, Tmf, UnitIdentity
from drivers.devices.scsi import cdb as commands
from drivers.devices.scsi.device.inquiry import LIMITS
from drivers.devices.scsi.layout import ScsiStatus
from vnet.ports.disk.store import open_file_store
from vnet.testing.checks import until
from vnet.testing.scsi import DISK, ScsiOptions, ScsiPair, open_scsi_pair

OLD, NEW, OTHER = b"o" * 1024, b"n" * 1024, b"x" * 1024
KIB = 1 << 10


async def compare(pair: ScsiPair, expected: bytes, data: bytes, lba: int = 4, tag: int | None = None) -> ScsiResult:
    cdb = commands.compare_and_write(lba, len(data) // pair.unit().block_size)
    return await pair.initiator.execute(cdb, data_out=expected + data, tag=tag)


def at_four(pair: ScsiPair) -> bytes:
    return bytes(pair.store.data[4 * 512 :][:1024])


@pytest.mark.every_transport
async def test_blocks_are_written_if_they_are_equal_and_else_the_difference_is_named() -> None:
    async with open_scsi_pair() as pair:
        assert (await pair.write(4, OLD)).good
        for differs in (0, 1, 511, 512, 1023):
            wrong = OLD[:differs] + b"?" + OLD[differs + 1 :]
            result = await compare(pair, wrong, NEW)
            assert result.status == ScsiStatus.CHECK_CONDITION
            assert result.sense is not None
            assert (result.sense.key, result.sense.asc) == (SenseKey.MISCOMPARE, Asc.MISCOMPARE_DURING_VERIFY)
            assert result.sense.information == differs
            assert at_four(pair) == OLD
        assert (await compare(pair, OLD, NEW)).good
        assert at_four(pair) == NEW
        assert (await compare(pair, b"", b"")).good, "no blocks at all"
        most = LIMITS.compare
        assert (await compare(pair, bytes(most), b"m" * most, lba=1000)).good
        assert pair.store.data[1000 * 512 :][: most + 1] == b"m" * most + b"\0"
        pair.store.errors["write"] = OSError(5, "worn out")
        result = await compare(pair, NEW, OLD)
        assert result.sense is not None
        assert (result.sense.key, result.sense.asc) == (SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)


def write_same(pair: ScsiPair) -> Awaitable[ScsiResult]:
    return pair.initiator.execute(commands.write_same(4, 2), data_out=b"x" * 512)


def unmap(pair: ScsiPair) -> Awaitable[ScsiResult]:
    cdb, data = commands.unmap((4, 2))
    return pair.initiator.execute(cdb, data_out=data)


CHANGES: dict[str, tuple[Callable[[ScsiPair], Awaitable[ScsiResult]], bytes]] = {
    "write": (lambda pair: pair.write(4, OTHER), OTHER),
    "compare and write": (lambda pair: compare(pair, NEW, OTHER), OTHER),
    "write same": (write_same, OTHER),
    "unmap": (unmap, bytes(1024)),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("change", "left"), CHANGES.values(), ids=CHANGES)
async def test_nothing_changes_blocks_between_their_comparison_and_their_write(
    change: Callable[[ScsiPair], Awaitable[ScsiResult]], left: bytes, at_once: bool
) -> None:
    async with open_scsi_pair() as pair, trio.open_nursery() as nursery:
        assert (await pair.write(4, OLD)).good
        pair.store.at_once, pair.store.gate = at_once, trio.Event()
        del pair.store.log[:]
        results: list[ScsiResult] = []

        async def run(command: Awaitable[ScsiResult]) -> None:
            results.append(await command)

        nursery.start_soon(run, compare(pair, OLD, NEW))
        await until(lambda: pair.store.inside == 1)
        nursery.start_soon(run, change(pair))
        await trio.sleep(0.1)
        assert at_four(pair) == OLD
        assert pair.store.log == [], "the read has not ended, and nothing else has begun"
        pair.store.gate.set()
        await until(lambda: len(results) == 2)
        assert all(result.good for result in results)
        assert at_four(pair) == left
        assert pair.store.log[:2] == ["read", "write"]


@pytest.mark.parametrize(("change", "left"), list(CHANGES.values())[2:], ids=list(CHANGES)[2:])
async def test_a_comparison_waits_for_changes_that_have_begun(
    change: Callable[[ScsiPair], Awaitable[ScsiResult]], left: bytes
) -> None:
    async with open_scsi_pair() as pair, trio.open_nursery() as nursery:
        assert (await pair.write(4, OLD)).good
        pair.store.gate = trio.Event()
        results: list[ScsiResult] = []

        async def run(command: Awaitable[ScsiResult]) -> None:
            results.append(await command)

        nursery.start_soon(run, change(pair))
        await until(lambda: pair.store.inside == 1)
        nursery.start_soon(run, compare(pair, OLD, NEW))
        await trio.sleep(0.1)
        assert pair.store.inside == 1
        pair.store.gate.set()
        await until(lambda: len(results) == 2)
        assert sorted(result.status for result in results) == [ScsiStatus.GOOD, ScsiStatus.CHECK_CONDITION]
        assert at_four(pair) == left


async def test_an_aborted_comparison_holds_up_nothing() -> None:
    async with open_scsi_pair(ScsiOptions(workers=1)) as pair, trio.open_nursery() as nursery:
        assert (await pair.write(4, OLD)).good
        pair.store.gate = trio.Event()
        ended: list[object] = []

        async def run(command: Awaitable[object]) -> None:
            ended.append(await command)

        nursery.start_soon(run, pair.initiator.execute(commands.synchronize_cache()))
        await until(lambda: pair.store.inside == 1)
        for tag in (1, 2):

            async def compared(tag: int = tag) -> None:
                with pytest.raises(Exception, match="ABORTED"):
                    await compare(pair, OLD, NEW, tag=tag)
                ended.append(tag)

            nursery.start_soon(compared)
        await trio.sleep(0.1)
        for tag in (1, 2):
            assert await pair.initiator.manage(Tmf.ABORT_TASK, DISK, tag) is Response.OK
        await until(lambda: len(ended) == 2)
        pair.store.gate.set()
        assert (await write_same(pair)).good
        assert (await pair.write(4, OTHER)).good
        assert at_four(pair) == OTHER


def rows(data: bytes) -> list[tuple[int, int, int]]:
    """First block, number of blocks and provisioning status of each descriptor."""
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    words = [data[at : at + 16] for at in range(8, len(data), 16)]
    return [(int.from_bytes(row[:8], "big"), int.from_bytes(row[8:12], "big"), row[12]) for row in words]


@pytest.mark.every_transport
async def test_all_blocks_of_a_disk_in_memory_are_mapped() -> None:
    async with open_scsi_pair() as pair:
        for lba in (0, 5, 16383):
            result = await pair.initiator.execute(commands.lba_status(lba, 1024), data_in=1024)
            assert result.good
            assert rows(result.data) == [(lba, 16384 - lba, 0)]
        result = await pair.initiator.execute(commands.lba_status(0, 10), data_in=10)
        assert (result.good, result.data) == (True, bytes((0, 0, 0, 20, 0, 0, 0, 0, 0, 0)))
        assert (await pair.initiator.execute(commands.lba_status(0, 0))).good


async def test_holes_of_a_file_are_deallocated_blocks(tmp_path: Path) -> None:
    path = tmp_path / "unit.img"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        for at in (0, 256 * KIB, 512 * KIB):
            os.pwrite(file.fileno(), b"d" * (64 * KIB), at)
    for block in (512, 128 * KIB // 2):
        async with open_file_store(path, block_size=block) as store, open_scsi_pair(ScsiOptions(luns=())) as pair:
            pair.domain.add(Lun(1, 0), LogicalUnit(store, UnitIdentity("file")))
            await trio.testing.wait_all_tasks_blocked()
            result = await pair.initiator.execute(commands.lba_status(0, 1024), lun=Lun(1, 0), data_in=1024)
            assert result.good
            actual = [(lba * block // KIB, count * block // KIB, status) for lba, count, status in rows(result.data)]
            assert actual == [(0, 64, 0), (64, 192, 1), (256, 64, 0), (320, 192, 1), (512, 64, 0), (576, 448, 1)]
            await pair.domain.remove(Lun(1, 0))
