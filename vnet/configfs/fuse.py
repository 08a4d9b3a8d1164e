"""The tree as a file system in user space, through pyfuse3. Only a process that mounts imports this module.

Each request is a command to the system: nothing is kept here but the paths of the inodes that the kernel knows.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pyfuse3
import trio
from pyfuse3 import ROOT_INODE, EntryAttributes, FileInfo, FUSEError, Operations

from vnet.configfs.mounts import TYPE, source_of
from vnet.configfs.paths import resolved
from vnet.configfs.tree import NAME_BYTES, WRITE_MAX
from vnet.configfs.values import TreeError

__all__ = ["TreeOperations", "mounted"]

CHANGES = 16
"""Changes that wait for the system at the same time."""

Call = Callable[[str, Mapping[str, object]], Awaitable[Any]]
"""Executes a command of the tree by the name behind "cfs-", with its arguments. Raises TreeError."""


@attrs.define(eq=False)
class _Inodes:
    """The inodes that the kernel knows, by path of the tree and number."""

    paths: dict[int, str] = attrs.field(factory=lambda: {ROOT_INODE: ""})
    numbers: dict[str, int] = attrs.field(factory=lambda: {"": ROOT_INODE})
    counts: dict[int, int] = attrs.field(factory=dict)
    """Lookups of each inode that the kernel has not yet forgotten."""
    last: int = ROOT_INODE

    def number(self, path: str) -> int:
        """Return the inode of a path."""
        if path not in self.numbers:
            self.last += 1
            self.numbers[path], self.paths[self.last] = self.last, path
        return self.numbers[path]

    def count(self, inode: int) -> None:
        self.counts[inode] = self.counts.get(inode, 0) + 1

    def forget(self, inode: int, lookups: int) -> None:
        left = self.counts.get(inode, 0) - lookups
        if left > 0 or inode == ROOT_INODE:
            self.counts[inode] = max(left, 0)
            return
        self.counts.pop(inode, None)
        path = self.paths.pop(inode, None)
        if path is not None:
            del self.numbers[path]


@attrs.define(eq=False)
class _Open:
    """An open file or directory."""

    path: str
    text: bytes = b""
    """The value, as it was when the file was read from its start."""
    entries: list[dict[str, Any]] = attrs.field(factory=list)


class TreeOperations(Operations):
    """The requests of the kernel. An error of the system becomes the error number of the request."""

    def __init__(self, mountpoint: Path, call: Call) -> None:
        super().__init__()
        self._mountpoint = str(mountpoint)
        self._call = call
        self._inodes = _Inodes()
        self._open: dict[int, _Open] = {}
        self._handles = 0
        self._turns = trio.CapacityLimiter(CHANGES)
        self._born = mountpoint.stat().st_mtime_ns

    # Looks

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> EntryAttributes:
        path = self._child(parent_inode, name, errno.ENOENT)
        entry = self._entry(path, await self._look("stat", path))
        self._inodes.count(entry.st_ino)
        return entry

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, lookups in inode_list:
            self._inodes.forget(inode, lookups)

    async def getattr(self, inode: int, ctx: Any) -> EntryAttributes:
        path = self._path(inode)
        return self._entry(path, await self._look("stat", path))

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        entry = await self._look("stat", self._path(inode))
        return os.fsencode(entry.get("target") or ".")

    async def opendir(self, inode: int, ctx: Any) -> int:
        path = self._path(inode)
        return self._opened(_Open(path, entries=await self._look("list", path)))

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        opened = self._open[fh]
        for at, entry in enumerate(opened.entries[start_id:], start_id + 1):
            path = f"{opened.path}/{entry['name']}".lstrip("/")
            attributes = self._entry(path, entry)
            if not pyfuse3.readdir_reply(token, os.fsencode(entry["name"]), attributes, at):
                break
            self._inodes.count(attributes.st_ino)

    async def releasedir(self, fh: int) -> None:
        del self._open[fh]

    async def open(self, inode: int, flags: int, ctx: Any) -> FileInfo:
        path = self._path(inode)
        entry = await self._look("stat", path)
        if flags & os.O_ACCMODE != os.O_RDONLY and not entry["mode"] & stat.S_IWUSR:
            raise FUSEError(errno.EACCES)
        return FileInfo(fh=self._opened(_Open(path)), direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        opened = self._open[fh]
        if off == 0:
            opened.text = (await self._look("read", opened.path))["text"].encode()
        return opened.text[off : off + size]

    async def release(self, fh: int) -> None:
        del self._open[fh]

    async def statfs(self, ctx: Any) -> Any:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = os.sysconf("SC_PAGE_SIZE")
        data.f_namemax = NAME_BYTES
        return data

    # Changes

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Give an attribute a value: all of ``buf``, at any offset, as in configfs."""
        if len(buf) > WRITE_MAX:
            raise FUSEError(errno.EINVAL)
        data = _text(bytes(buf), errno.EINVAL)
        if "\0" in data:
            raise FUSEError(errno.EINVAL)
        await self._change("write", {"path": self._open[fh].path, "data": data})
        return len(buf)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> EntryAttributes:
        """Truncate a file, which changes nothing: its next write is a whole value. Mode and owner stay."""
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise FUSEError(errno.EPERM)
        return await self.getattr(inode, ctx)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> EntryAttributes:
        path = self._child(parent_inode, name)
        await self._change("mkdir", {"path": path})
        return await self.lookup(parent_inode, name, ctx)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._change("rmdir", {"path": self._child(parent_inode, name)})

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._change("unlink", {"path": self._child(parent_inode, name)})

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> EntryAttributes:
        parent = self._path(parent_inode)
        text = _text(target, errno.EINVAL)
        bases = [*_working_directory(ctx.pid), f"{self._mountpoint}/{parent}"]
        choices = resolved(self._mountpoint, text, bases)
        path = self._child(parent_inode, name)
        for last, choice in enumerate(choices, 1 - len(choices)):
            try:
                await self._look("stat", choice)
            except FUSEError:
                if not last:
                    raise
            else:
                await self._change("symlink", {"path": path, "target": choice})
                return await self.lookup(parent_inode, name, ctx)
        raise FUSEError(errno.EPERM)  # it leads out of the tree

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        raise FUSEError(errno.EACCES)

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        raise FUSEError(errno.EPERM)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        raise FUSEError(errno.EPERM)

    async def rename(self, *_: Any) -> None:
        raise FUSEError(errno.EPERM)

    # Parts of them

    async def _look(self, command: str, path: str) -> Any:
        try:
            return await self._call(command, {"path": path})
        except TreeError as exc:
            raise FUSEError(exc.number) from None

    async def _change(self, command: str, arguments: Mapping[str, object]) -> None:
        async with self._turns:
            try:
                await self._call(command, arguments)
            except TreeError as exc:
                raise FUSEError(exc.number) from None

    def _path(self, inode: int) -> str:
        path = self._inodes.paths.get(inode)
        if path is None:
            raise FUSEError(errno.ESTALE)
        return path

    def _child(self, parent: int, name: bytes, number: int = errno.EINVAL) -> str:
        """Return the path of a name in a directory. ``number`` is the error for a name that is no UTF-8 text."""
        if len(name) > NAME_BYTES:
            raise FUSEError(errno.ENAMETOOLONG)
        return os.path.normpath(f"/{self._path(parent)}/{_text(name, number)}").lstrip("/")

    def _opened(self, opened: _Open) -> int:
        self._handles += 1
        self._open[self._handles] = opened
        return self._handles

    def _entry(self, path: str, entry: Mapping[str, Any]) -> EntryAttributes:
        """Return what stat shows. Nothing of it is kept by the kernel, because the system changes on its own."""
        made = EntryAttributes()
        made.st_ino = self._inodes.number(path)
        made.generation = 0
        made.entry_timeout = made.attr_timeout = 0
        made.st_mode = entry["mode"]
        made.st_nlink = 1 + stat.S_ISDIR(entry["mode"])
        made.st_uid, made.st_gid = os.getuid(), os.getgid()
        made.st_size = WRITE_MAX + 1 if stat.S_ISREG(entry["mode"]) else len(entry.get("target") or "")
        made.st_blksize = WRITE_MAX + 1
        made.st_atime_ns = made.st_mtime_ns = made.st_ctime_ns = self._born
        return made


def _text(name: bytes, number: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise FUSEError(number) from None


def _working_directory(pid: int) -> list[str]:
    """Return the working directory of a process; nothing if it is unknown."""
    try:
        return [str(Path(f"/proc/{pid}/cwd").readlink())]
    except OSError:
        return []


@asynccontextmanager
async def mounted(name: str, mountpoint: Path, call: Call) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Mount the tree of the system ``name``; yields what serves it until it is unmounted. Unmounts it at the end.

    A process can have one mount. Raises OSError.
    """
    options = {*pyfuse3.default_options, f"fsname={source_of(name)}", f"subtype={TYPE}"}
    try:
        pyfuse3.init(TreeOperations(mountpoint, call), str(mountpoint), options)
    except RuntimeError as exc:
        raise OSError(errno.EIO, f"not mounted: {exc}", str(mountpoint)) from None
    try:
        yield pyfuse3.main
    finally:
        pyfuse3.close(unmount=True)
