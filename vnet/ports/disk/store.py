"""Sector stores for disks: a file, a block device, or memory."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from drivers.contracts.ports import Lifetime, StoreInfo
from vnet.linux.files import close_file, open_to_write
from vnet.linux.threads import run_in_thread

__all__ = ["FileStore", "MemoryStore", "open_file_store", "read_lifetime"]

T = TypeVar("T")

SECTOR = 512
IOV_MAX = 1024
"""Maximum number of buffers per system call."""
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 0x01, 0x02, 0x10
UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}
ZEROES = bytes(1 << 20)
_READ, _WRITE, _NOWAIT = os.preadv, os.pwritev, os.RWF_NOWAIT

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class MemoryStore:
    """A store in memory, which never blocks. Implements `drivers.contracts.ports.SectorStore`."""

    def __init__(self, size: int, *, read_only: bool = False, block_size: int = SECTOR) -> None:
        """``size`` is in bytes, a multiple of 512. Unwritten sectors use no real memory."""
        self.data = bytearray(size)
        self.info = StoreInfo(size, read_only, block_size, max(block_size, 4096))

    def preadv(self, segs: Sequence[memoryview], offset: int, /) -> int:
        with memoryview(self.data) as data:
            at = offset
            for seg in segs:
                seg[:] = data[at : at + len(seg)]
                at += len(seg)
        return at - offset

    def pwritev(self, segs: Sequence[memoryview], offset: int, /) -> int:
        with memoryview(self.data) as data:
            at = offset
            for seg in segs:
                data[at : at + len(seg)] = seg
                at += len(seg)
        return at - offset

    # These two move all bytes, also while a simulation has `preadv` and `pwritev` of a store move fewer.

    async def read(self, into: memoryview, offset: int, /) -> None:
        MemoryStore.preadv(self, [into], offset)

    async def write(self, parts: Sequence[tuple[int, memoryview]], /) -> None:
        for offset, part in parts:
            MemoryStore.pwritev(self, [part], offset)

    async def flush(self) -> None:
        """Do nothing: memory needs no flush."""

    async def discard(self, offset: int, size: int, /) -> None:
        await self.write_zeroes(offset, size, True)

    async def write_zeroes(self, offset: int, size: int, unmap: bool, /) -> None:
        for at in range(offset, offset + size, len(ZEROES)):
            part = min(len(ZEROES), offset + size - at)
            self.data[at : at + part] = ZEROES[:part]
            await trio.lowlevel.checkpoint()

    async def extents(self, offset: int, size: int, limit: int, /) -> Sequence[tuple[int, int, bool]]:
        return [(offset, size, True)]

    async def erase(self, offset: int, size: int, /) -> None:
        await self.write_zeroes(offset, size, True)


class FileStore:
    """A store in an open file or block device. Implements `drivers.contracts.ports.SectorStore`.

    Reads from the page cache complete at once. All other calls run in up to ``workers`` threads.
    """

    def __init__(self, fd: int, info: StoreInfo, workers: int) -> None:
        """``fd`` is closed by its opener."""
        self.info = info
        self._fd = fd
        self._threads = trio.CapacityLimiter(workers)
        self._nowait = {_READ: True, _WRITE: True}
        self._failed: tuple[int, str] | None = None  # no exception, because each raise would lengthen its traceback

    def preadv(self, segs: Sequence[memoryview], offset: int, /) -> int:
        return self._at_once(_READ, segs, offset)

    def pwritev(self, segs: Sequence[memoryview], offset: int, /) -> int:
        return self._at_once(_WRITE, segs, offset)

    def _at_once(self, call: Callable[..., int], segs: Sequence[memoryview], offset: int) -> int:
        if not self._nowait[call]:
            return 0
        try:
            return call(self._fd, segs if len(segs) <= IOV_MAX else segs[:IOV_MAX], offset, _NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._nowait[call] = False  # many file systems do not support RWF_NOWAIT for writes
            return 0

    async def read(self, into: memoryview, offset: int, /) -> None:
        await self._in_thread(self._read, into, offset)

    async def write(self, parts: Sequence[tuple[int, memoryview]], /) -> None:
        await self._in_thread(self._write, parts)

    async def flush(self) -> None:
        await self._in_thread(self._flush)

    async def discard(self, offset: int, size: int, /) -> None:
        await self._in_thread(self._discard, offset, size)

    async def write_zeroes(self, offset: int, size: int, unmap: bool, /) -> None:
        await self._in_thread(self._write_zeroes, offset, size, unmap)

    async def extents(self, offset: int, size: int, limit: int, /) -> Sequence[tuple[int, int, bool]]:
        return await self._in_thread(self._extents, offset, size, limit)

    async def erase(self, offset: int, size: int, /) -> None:
        await self._in_thread(self._erase, offset, size)

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        # Not abandoned on cancellation, so that it ends before a reset of the device does.
        return await run_in_thread(call, *args, limiter=self._threads)

    # In a worker thread

    def _read(self, into: memoryview, offset: int) -> None:
        while into:
            count = os.preadv(self._fd, [into], offset)
            if not count:
                raise OSError(errno.EIO, "the file was truncated")
            into, offset = into[count:], offset + count

    def _write(self, parts: Sequence[tuple[int, memoryview]]) -> None:
        for start, part in parts:
            offset, rest = start, part
            while rest:
                done = os.pwritev(self._fd, [rest], offset)
                rest, offset = rest[done:], offset + done

    def _flush(self) -> None:
        """Flush, unless an earlier flush failed and lost data for good, or the file was deleted."""
        if self._failed is not None:
            raise OSError(*self._failed)
        try:
            if not os.fstat(self._fd).st_nlink:
                raise OSError(errno.ESTALE, "the file was removed")
            os.fdatasync(self._fd)
        except OSError as error:
            self._failed = error.errno or errno.EIO, error.strerror or str(error)
            raise

    def _discard(self, offset: int, size: int) -> None:
        self._fallocate(FALLOC_FL_PUNCH_HOLE, offset, size)  # discard is a hint: ignoring it is allowed

    def _write_zeroes(self, offset: int, size: int, unmap: bool) -> None:
        modes = (FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE) if unmap else (FALLOC_FL_ZERO_RANGE,)
        end = offset + size
        if not any(self._fallocate(mode, offset, size) for mode in modes):
            zeroes = memoryview(ZEROES)
            self._write([(at, zeroes[: end - at]) for at in range(offset, end, len(ZEROES))])
        elif os.lseek(self._fd, 0, os.SEEK_END) < end:
            # The file was truncated. A write at its end extends it, a hole does not; skipped bytes read as zeroes.
            self._write([(end - 1, memoryview(ZEROES)[:1])])

    def _erase(self, offset: int, size: int) -> None:
        """Overwrite the range, and discard it only once the zeroes are on stable storage.

        Neither a hole nor a zeroed range will do: they leave the data where they are.
        """
        zeroes = memoryview(ZEROES)
        self._write([(at, zeroes[: offset + size - at]) for at in range(offset, offset + size, len(ZEROES))])
        self._flush()
        self._discard(offset, size)

    def _extents(self, offset: int, size: int, limit: int) -> Sequence[tuple[int, int, bool]]:
        """Find data and holes; a block that lies in a hole only in part counts as data."""
        extents: list[tuple[int, int, bool]] = []
        block, end = self.info.block_size, offset + size
        while offset < end and len(extents) < limit:
            data = self._seek(offset, os.SEEK_DATA, end) // block * block
            if data > offset:
                extents.append((offset, data - offset, False))
            else:
                hole = self._seek(offset, os.SEEK_HOLE, end)
                data = min(end, -(-hole // block) * block)
                extents.append((offset, data - offset, True))
            offset = data
        return extents

    def _seek(self, offset: int, whence: int, end: int) -> int:
        """Return the place of the next data or hole from ``offset`` on, ``end`` if there is none before."""
        try:
            return min(end, os.lseek(self._fd, offset, whence))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return end

    def _fallocate(self, mode: int, offset: int, size: int) -> bool:
        """Call fallocate; return False if the file system does not support the mode."""
        while size and _libc.fallocate64(self._fd, mode | FALLOC_FL_KEEP_SIZE, offset, size):
            number = ctypes.get_errno()
            if number in UNSUPPORTED:
                return False
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))
        return True


def read_lifetime(device: int, root: Path = Path("/sys/dev/block")) -> Lifetime | None:
    """Return the wear of a block device that is an eMMC, from its attributes in sysfs; None for any other."""
    place = root / f"{os.major(device)}:{os.minor(device)}" / "device"
    try:
        words = [(place / name).read_text().split() for name in ("pre_eol_info", "life_time")]
        (pre_eol,), (wear_a, wear_b) = words
        lifetime = Lifetime(int(pre_eol, 16), int(wear_a, 16), int(wear_b, 16))
    except (OSError, ValueError):
        return None
    return lifetime if lifetime.valid else None


@asynccontextmanager
async def open_file_store(
    path: Path,
    *,
    size: int | None = None,
    read_only: bool = False,
    shared: bool = False,
    block_size: int = SECTOR,
    workers: int = 4,
) -> AsyncIterator[FileStore]:
    """Open the file or block device at ``path``, locked for us alone unless read-only or shared.

    With ``size`` (bytes) a missing file is created, and an existing one must have this size. Raises OSError, and
    BlockingIOError if another program uses it, unless each of the two is read-only or shared.
    """
    make = size is not None and not read_only
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | (os.O_CREAT if make else 0) | os.O_CLOEXEC
    opening = os.open if read_only else open_to_write
    fd = await run_in_thread(opening, path, flags, 0o600)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only or shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        status = os.fstat(fd)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise OSError(errno.EINVAL, "it is neither a file nor a block device", str(path))
        file_size = os.lseek(fd, 0, os.SEEK_END)
        if not file_size and make and size is not None:
            os.ftruncate(fd, size)
            file_size = size
        if size is not None and file_size != size:
            raise OSError(errno.EINVAL, f"it has {file_size} bytes, and not {size}", str(path))
        if not file_size or file_size % block_size:
            raise OSError(errno.EINVAL, f"its {file_size} bytes are not whole blocks of {block_size}", str(path))
        physical = max(block_size, min(status.st_blksize, 1 << 16))
        lifetime = read_lifetime(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None
        yield FileStore(fd, StoreInfo(file_size, read_only, block_size, physical, lifetime=lifetime), workers)
    finally:
        close_file(fd, path)
