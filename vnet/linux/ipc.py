"""What two processes share: unix sockets that pass file descriptors, memory, and events (`drivers.contracts.ipc`)."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from drivers.contracts.ipc import FdSocket, Handle, Notifier, SharedMemory, Unusable
from drivers.errors import TransportLost
from vnet.linux import unix_socket as listen
from vnet.linux.memory import PAGE, full_fence
from vnet.linux.poller import Poller

__all__ = ["FileHandle", "LocalIpc", "Mapping", "UnixSocket", "connect", "mapped_span", "socket_pair"]

MAX_FDS = 253
"""What one message can carry (SCM_MAX_FD)."""
_FD_SIZE = array.array("i").itemsize
_ROOM = socket.CMSG_SPACE(MAX_FDS * _FD_SIZE)
_SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class FileHandle:
    """A file descriptor, and who closes it."""

    def __init__(self, fd: int) -> None:
        """Owns ``fd`` from now on."""
        self._fd = fd

    @classmethod
    def copy(cls, fd: int) -> FileHandle:
        """Of a descriptor that stays somebody else's. Raises OSError."""
        return cls(os.dup(fd))

    def fileno(self) -> int:
        """-1 once closed."""
        return self._fd

    def take(self) -> int:
        """The descriptor, which is the caller's from now on."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self.take())


def _fileno(handle: Handle) -> int:
    assert isinstance(handle, FileHandle), "a handle of another kind of system"
    return handle.fileno()


class UnixSocket:
    """`drivers.contracts.ipc.FdSocket` on a connected unix stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        """Owns it from now on."""
        self._socket = trio.socket.from_stdlib_socket(connected)

    async def receive(self, limit: int) -> tuple[bytes, list[Handle]]:
        try:
            data, ancillary, flags, _ = await self._socket.recvmsg(limit, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except (OSError, trio.ClosedResourceError) as exc:
            raise TransportLost(_why(exc)) from None
        handles = [FileHandle(fd) for level, kind, packed in ancillary for fd in _unpack(level, kind, packed)]
        if flags & socket.MSG_CTRUNC:
            for handle in handles:
                handle.close()
            raise Unusable("file descriptors were lost on the way: this process has no room for more")
        return data, [*handles]

    async def send(self, data: bytes, handles: Sequence[Handle] = ()) -> None:
        left = memoryview(data)
        fds = array.array("i", map(_fileno, handles))
        ancillary: list[tuple[int, int, Any]] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            while left:
                left = left[await self._socket.sendmsg([left], ancillary) :]
                ancillary = []  # they went with the first byte
        except (OSError, trio.ClosedResourceError) as exc:
            raise TransportLost(_why(exc)) from None

    def close(self) -> None:
        self._socket.close()


def _unpack(level: int, kind: int, packed: bytes) -> Sequence[int]:
    fds = array.array("i")
    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        fds.frombytes(packed[: len(packed) - len(packed) % _FD_SIZE])
    return fds


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "the socket was closed"


async def connect(path: Path) -> UnixSocket:
    """A connection to the socket at ``path``. Raises OSError; BlockingIOError if its backlog is full."""
    return UnixSocket(listen.connect(path))


def socket_pair() -> tuple[UnixSocket, UnixSocket]:
    """Two ends of one connection. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return UnixSocket(ours), UnixSocket(theirs)


def mapped_span(offset: int, size: int, file_size: int, block: int) -> tuple[int, int]:
    """The start and the bytes of a mapping with ``size`` bytes from ``offset`` of a file that has pages of ``block``.

    Memory of huge pages is mapped and unmapped in whole ones only.
    """
    page = max(block, mmap.ALLOCATIONGRANULARITY)
    start = offset - offset % page
    end = min(-(-(offset + size) // page) * page, max(file_size, offset + size))
    return start, end - start


class Mapping:
    """`drivers.contracts.ipc.SharedMemory`: part of a file, shared."""

    def __init__(self, fd: int, size: int, offset: int = 0) -> None:
        """Raises OSError, ValueError."""
        found = os.fstat(fd)
        start, length = mapped_span(offset, size, found.st_size, found.st_blksize)
        self._map: mmap.mmap | None = mmap.mmap(fd, length, offset=start)
        self.view = memoryview(self._map)[offset - start : offset - start + size]

    def close(self) -> None:
        if self._map is None:
            return
        self.view.release()
        self.view = memoryview(b"")
        try:
            self._map.close()
        except BufferError:
            pass  # somebody still holds a slice: the mapping goes away together with the last of them
        self._map = None


class _Event(FileHandle):
    """An eventfd, checked to be one and never to wait."""

    def __init__(self, handle: Handle) -> None:
        """Take the handle over. Raises Unusable, and closes it, if it is no eventfd."""
        assert isinstance(handle, FileHandle), "a handle of another kind of system"
        super().__init__(handle.take())
        if not _is_eventfd(self.fileno()):
            self.close()
            raise Unusable("a file descriptor that is no eventfd")


def _is_eventfd(fd: int) -> bool:
    """Whether it is one, which never blocks from now on: without /proc, which may not be mounted.

    An eventfd has no file type, and is the only such descriptor that takes 8 zero bytes, which add nothing to it.
    """
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode):
            return False
        os.set_blocking(fd, False)
        os.eventfd_write(fd, 0)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


class _Notifier(_Event):
    def __init__(self, handle: Handle, poller: Poller) -> None:
        super().__init__(handle)
        self._poller = poller

    def notify(self) -> None:
        self._poller.at_end(self._write)

    def _write(self) -> None:
        if self._fd >= 0:
            try:
                os.eventfd_write(self._fd, 1)
            except BlockingIOError:
                pass  # so full that it was told many times over


class _Watch(_Event):
    def __init__(self, handle: Handle, poller: Poller, told: Callable[[], object]) -> None:
        self._poller = poller
        super().__init__(handle)
        # Edges are enough, and each write is one: nobody reads the counter, which takes 2^64 of them.
        try:
            poller.watch(self.fileno(), told)
        except OSError as exc:
            super().close()
            raise Unusable(f"no further event can be watched: {exc.strerror}") from None

    def close(self) -> None:
        if self._fd >= 0:
            self._poller.unregister(self._fd)
        super().close()


class LocalIpc:
    """`drivers.contracts.ipc.Ipc` on this machine."""

    def __init__(self, poller: Poller, *, allow_unsealed: bool = False) -> None:
        """``poller`` watches events. With ``allow_unsealed`` memory is taken whose owner could still take it away:
        whoever then touches it is killed by SIGBUS.
        """
        self._poller = poller
        self._allow_unsealed = allow_unsealed

    def fence(self) -> None:
        full_fence()

    def map(self, handle: Handle, size: int, offset: int) -> SharedMemory:
        fd = _fileno(handle)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise Unusable("a file descriptor that is no memory")
            if offset < 0 or size <= 0 or offset + size > found.st_size:
                raise Unusable(f"{size:#x} bytes from {offset:#x} on, of memory of {found.st_size:#x} bytes")
            if not self._allow_unsealed and not _seals(fd) & fcntl.F_SEAL_SHRINK:
                raise Unusable(
                    "memory that is not sealed against shrinking: its owner could end this process by a cut"
                    " (QEMU: memory-backend-memfd; else --allow-unsealed)"
                )
            return Mapping(fd, size, offset)
        except (OSError, ValueError, OverflowError) as exc:
            raise Unusable(f"{size:#x} bytes of memory can't be mapped: {exc}") from None

    def make(self, size: int) -> tuple[SharedMemory, Handle]:
        try:
            handle = FileHandle(os.memfd_create("vnet-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
            try:
                os.ftruncate(handle.fileno(), -(-size // PAGE) * PAGE)
                fcntl.fcntl(handle.fileno(), fcntl.F_ADD_SEALS, _SEALED)
                return Mapping(handle.fileno(), size), handle
            except BaseException:
                handle.close()
                raise
        except (OSError, ValueError, OverflowError) as exc:
            raise Unusable(f"no {size} bytes of shared memory: {exc}") from None

    def make_event(self) -> Handle:
        try:
            return FileHandle(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        except OSError as exc:
            raise Unusable(f"no further event: {exc.strerror}") from None

    def make_channel(self) -> tuple[FdSocket, Handle]:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as exc:
            raise Unusable(f"no further connection: {exc.strerror}") from None
        return UnixSocket(ours), FileHandle(theirs.detach())

    def channel(self, handle: Handle) -> FdSocket:
        assert isinstance(handle, FileHandle), "a handle of another kind of system"
        try:
            found = socket.socket(fileno=handle.fileno())
        except OSError as exc:
            handle.close()
            raise Unusable(f"a file descriptor that is no socket: {exc.strerror}") from None
        handle.take()
        if (found.family, found.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            found.close()
            raise Unusable("a file descriptor that is no unix stream socket")
        return UnixSocket(found)

    def notifier(self, handle: Handle) -> Notifier:
        return _Notifier(handle, self._poller)

    def watch(self, handle: Handle, told: Callable[[], None]) -> Handle:
        return _Watch(handle, self._poller, told)


def _seals(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # a file system that has none
        return 0
