"""Stores in real files: what the cache has at once, what blocks in threads, holes, and files that break meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from vnet.ports.disk.store import FileStore, MemoryStore, open_file_store

MIB = 1 << 20
SIZE = 4 * MIB

pytestmark = pytest.mark.usefixtures("no_leaks")


def used(path: Path) -> int:
    """Bytes that really are on the disk."""
    return path.stat().st_blocks * 512


def fill(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))


def size_of(path: Path) -> int:
    return path.stat().st_size


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


async def write(store: FileStore | MemoryStore, offset: int, data: bytes) -> None:
    """As a device does: at once as far as it goes, then in a worker."""
    done = store.pwritev([memoryview(data)], offset)
    await store.write([(offset + done, memoryview(data)[done:])])


async def read(store: FileStore | MemoryStore, offset: int, size: int) -> bytes:
    into = memoryview(bytearray(size))
    done = store.preadv([into], offset)
    await store.read(into[done:], offset + done)
    return bytes(into)


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_written_data_are_read_and_zeroes_and_discards_are_ranges(path: Path, kind: str) -> None:
    async def run(store: FileStore | MemoryStore) -> None:
        data = os.urandom(3 * MIB)
        await write(store, 4096, data)
        assert await read(store, 4096, len(data)) == data
        for unmap in (True, False):
            await write(store, 0, data)
            await store.write_zeroes(8192, 2 * MIB + 512, unmap)
            assert await read(store, 0, len(data)) == data[:8192] + bytes(2 * MIB + 512) + data[8192 + 2 * MIB + 512 :]
        await store.discard(0, MIB)
        assert await read(store, 3 * MIB - 512, 512) == data[-512:]
        await store.flush()

    if kind == "memory":
        await run(MemoryStore(SIZE))
    else:
        async with open_file_store(path, size=SIZE) as store:
            await run(store)


async def test_reads_of_the_cache_go_straight_into_the_buffers_they_are_for(path: Path) -> None:
    async with open_file_store(path, size=SIZE) as store:
        data = os.urandom(64 << 10)
        await write(store, MIB, data)
        into = [memoryview(bytearray(size)) for size in (512, 40000, 25024)]
        if not store.preadv(into, MIB):
            pytest.skip("this file system reads nothing without waiting")
        assert b"".join(into) == data
        many = [memoryview(bytearray(8)) for _ in range(2000)]
        assert store.preadv(many, MIB) == 1024 * 8


async def test_discarded_and_zeroed_blocks_are_given_back(path: Path) -> None:
    async with open_file_store(path, size=SIZE) as store:
        await write(store, 0, os.urandom(SIZE))
        await store.flush()
        assert used(path) >= SIZE
        await store.discard(0, MIB)
        await store.write_zeroes(MIB, MIB, True)
        assert used(path) <= SIZE - 2 * MIB + 4096
        assert size_of(path) == SIZE


async def test_where_the_file_system_has_no_holes_zeroes_are_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileStore, "_fallocate", lambda *_: False)
    async with open_file_store(path, size=SIZE) as store:
        await write(store, 0, b"x" * SIZE)
        await store.write_zeroes(512, 2 * MIB, True)
        await store.discard(0, 512)
        assert await read(store, 0, SIZE) == b"x" * 512 + bytes(2 * MIB) + b"x" * (SIZE - 2 * MIB - 512)


@pytest.mark.hostile("B06")
async def test_a_file_that_was_cut_off_gives_an_error_and_never_part_of_the_data(path: Path) -> None:
    async with open_file_store(path, size=SIZE) as store:
        await write(store, 0, b"x" * SIZE)
        os.truncate(path, MIB + 100)
        assert await read(store, 0, MIB) == b"x" * MIB
        for offset in (MIB - 512, MIB, 2 * MIB):
            with pytest.raises(OSError, match="the file was truncated"):
                await read(store, offset, 1024)


@pytest.mark.hostile("B06")
async def test_a_file_that_was_removed_can_not_be_flushed_any_more(path: Path) -> None:
    async with open_file_store(path, size=SIZE) as store:
        await write(store, 0, b"x" * 512)
        await store.flush()
        remove(path)
        assert await read(store, 0, 512) == b"x" * 512
        for _ in range(2):
            with pytest.raises(OSError, match="removed") as caught:
                await store.flush()
            assert caught.value.errno == errno.ESTALE


@pytest.fixture
def small(tmp_path: Path, privileged: None) -> Iterator[Path]:
    """A file system of 1 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.hostile("B06")
async def test_a_full_file_system_is_an_error_and_what_was_there_stays(small: Path) -> None:
    async with open_file_store(small / "disk.img", size=SIZE) as store:
        await write(store, 0, b"x" * (512 << 10))
        with pytest.raises(OSError, match="No space left") as caught:
            await write(store, MIB, b"y" * MIB)
        assert caught.value.errno == errno.ENOSPC
        assert await read(store, 0, 512 << 10) == b"x" * (512 << 10)


@pytest.mark.hostile("B06")
async def test_a_flush_that_failed_once_never_succeeds_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_file_store(path, size=SIZE) as store:
        real, fail = os.fdatasync, True

        def fdatasync(fd: int) -> None:
            if fail:
                raise OSError(errno.EIO, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        raised: list[BaseException] = []
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output") as caught:
                await store.flush()
            assert caught.value.errno == errno.EIO
            raised.append(caught.value)
            fail = False
        assert len({id(error) for error in raised}) == 3, "a traceback grows each time that its exception is raised"


@pytest.mark.hostile("B06")
@pytest.mark.parametrize("unmap", [True, False])
async def test_zeroes_behind_the_end_of_a_truncated_file_can_be_read(path: Path, unmap: bool) -> None:
    async with open_file_store(path, size=SIZE) as store:
        os.truncate(path, MIB)
        await store.write_zeroes(2 * MIB, 4096, unmap)
        assert await read(store, MIB, MIB + 4096) == bytes(MIB + 4096)
        assert size_of(path) == 2 * MIB + 4096
        await store.write_zeroes(0, MIB, unmap)
        assert size_of(path) == 2 * MIB + 4096


async def test_a_blocking_call_ends_before_its_cancelled_task_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_store(path, size=SIZE) as store:
        read_end, write_end = os.pipe()
        monkeypatch.setattr(os, "fdatasync", lambda _: os.read(read_end, 1))
        ended = False

        async def flush() -> None:
            nonlocal ended
            await store.flush()
            ended = True

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush)
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
                nursery.start_soon(trio.to_thread.run_sync, os.write, write_end, b"x")
                os.write(write_end, b"x")
        assert ended
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        (0, {}, "whole blocks"),
        (1000, {}, "whole blocks of 512"),
        (1536, {"block_size": 4096}, "whole blocks of 4096"),
        (4096, {"size": 8192}, "it has 4096 bytes, and not 8192"),
        (None, {}, "No such file"),
        (None, {"size": 4096, "read_only": True}, "No such file"),
    ],
)
async def test_a_file_that_is_no_disk_is_refused(
    path: Path, make: int | None, options: dict[str, int], why: str
) -> None:
    if make is not None:
        fill(path, make)
    with pytest.raises(OSError, match=why):
        async with open_file_store(path, **options):  # type: ignore[arg-type]
            pass


async def test_a_file_that_is_shared_by_all_its_writers_has_several(path: Path) -> None:
    async with open_file_store(path, size=SIZE, shared=True) as one, open_file_store(path, shared=True) as other:
        await write(one, 0, b"x" * 4096)
        assert await read(other, 0, 4096) == b"x" * 4096
        with pytest.raises(BlockingIOError):
            async with open_file_store(path):
                pass


async def test_a_file_has_one_writer_or_many_readers(path: Path) -> None:
    async with open_file_store(path, size=SIZE):
        with pytest.raises(BlockingIOError):
            async with open_file_store(path):
                pass
    async with open_file_store(path, read_only=True), open_file_store(path, read_only=True) as store:
        assert store.info.read_only
        assert store.info.size == SIZE


async def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(OSError, match="neither a file nor a block device"):
            async with open_file_store(path):
                pass
