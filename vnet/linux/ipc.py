"""Linux's side of `drivers.contracts.ipc`: unix sockets that pass file descriptors, shared memory, and eventfds."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import sleep
from typing import Any

import trio

from drivers.contracts.ipc import FdSocket, Handle, Ipc, Notifier, SharedMemory, Unusable
from drivers.errors import TransportLost
from vnet.linux import unix_socket as listen
from vnet.linux.memory import PAGE, full_fence
from vnet.linux.poller import Poller

__all__ = [
    "FileHandle",
    "InstantSocket",
    "LocalIpc",
    "Mapping",
    "UnixSocket",
    "connect",
    "mapped_span",
    "notifiers",
    "socket_pair",
    "wait_any",
]

PAUSE = 0.01
"""Seconds between attempts to wait while the kernel lacks memory."""
MAX_FDS = 253
"""File descriptors per message (SCM_MAX_FD)."""
_CLOEXEC, _CUT, _NO_SIGNAL = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC), int(socket.MSG_NOSIGNAL)
"""As plain numbers, whose operations are quicker."""
_FD_SIZE = array.array("i").itemsize
_ROOM = socket.CMSG_SPACE(MAX_FDS * _FD_SIZE)
_SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class FileHandle:
    """Owner of a file descriptor."""

    def __init__(self, fd: int) -> None:
        """Take ownership of ``fd``."""
        self._fd = fd

    @classmethod
    def copy(cls, fd: int) -> FileHandle:
        """Duplicate ``fd``, whose owner keeps it. Raises OSError."""
        return cls(os.dup(fd))

    def fileno(self) -> int:
        """Return the descriptor; -1 once closed."""
        return self._fd

    def take(self) -> int:
        """Return the descriptor and hand its ownership to the caller."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self.take())


def _own(handle: Handle) -> FileHandle:
    """Return a handle as one of this system. Raises TypeError."""
    if not isinstance(handle, FileHandle):
        raise TypeError("a handle of another kind of system")
    return handle


class UnixSocket:
    """`drivers.contracts.ipc.FdSocket` on a connected unix stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        """Take ownership of ``connected``."""
        self._socket = trio.socket.from_stdlib_socket(connected)
        self.instant = InstantSocket(connected)
        """The same socket without waiting."""

    async def receive(self, limit: int) -> tuple[bytes, list[Handle]]:
        try:
            data, ancillary, flags, _ = await self._socket.recvmsg(limit, _ROOM, _CLOEXEC)
        except (OSError, trio.ClosedResourceError) as exc:
            raise TransportLost(_why(exc)) from None
        return data, _take_handles(ancillary, flags)

    async def send(self, data: bytes, handles: Sequence[Handle] = ()) -> None:
        left = memoryview(data)
        ancillary = _fds_message(handles)
        try:
            while left:
                left = left[await self._socket.sendmsg([left], ancillary) :]
                ancillary = []  # sent with the first byte
        except (OSError, trio.ClosedResourceError) as exc:
            raise TransportLost(_why(exc)) from None

    def hung_up(self) -> bool:
        return self._socket.fileno() == -1 or self.instant.wait(select.POLLRDHUP, 0)

    def close(self) -> None:
        self._socket.close()


def _fds_message(handles: Sequence[Handle]) -> list[tuple[int, int, Any]]:
    """Return the ancillary data of sendmsg that pass the file descriptors."""
    fds = array.array("i", (_own(handle).fileno() for handle in handles))
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []


def _take_handles(ancillary: Sequence[tuple[int, int, bytes]], flags: int) -> list[Handle]:
    """Return the file descriptors received by recvmsg. Raises Unusable if some were lost; then all are closed."""
    handles: list[Handle] = [FileHandle(fd) for level, kind, packed in ancillary for fd in _unpack(level, kind, packed)]
    if flags & _CUT:
        for handle in handles:
            handle.close()
        raise Unusable("received file descriptors were dropped: this process has no room for more")
    return handles


def _unpack(level: int, kind: int, packed: bytes) -> Sequence[int]:
    fds = array.array("i")
    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        fds.frombytes(packed[: len(packed) - len(packed) % _FD_SIZE])
    return fds


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "the socket was closed"


async def connect(path: Path) -> UnixSocket:
    """Connect to the socket at ``path``. Raises OSError; BlockingIOError if its backlog is full."""
    return UnixSocket(listen.connect(path))


def socket_pair() -> tuple[UnixSocket, UnixSocket]:
    """Return the two ends of a new connection. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return UnixSocket(ours), UnixSocket(theirs)


def mapped_span(offset: int, size: int, file_size: int, block: int) -> tuple[int, int]:
    """Return start and length of a page-aligned mapping that covers ``size`` bytes at ``offset`` of a file.

    ``block`` is the file's block size: memory of huge pages can be mapped and unmapped in whole pages only.
    """
    page = max(block, mmap.ALLOCATIONGRANULARITY)
    start = offset - offset % page
    end = min(-(-(offset + size) // page) * page, max(file_size, offset + size))
    return start, end - start


class InstantSocket:
    """One end of a connection that passes file descriptors."""

    def __init__(self, connected: socket.socket) -> None:
        """Take ownership of ``connected``, which is non-blocking."""
        self._socket = connected

    def fileno(self) -> int:
        """Return the descriptor; -1 once closed."""
        return self._socket.fileno()

    def receive(self, limit: int) -> tuple[bytes, list[Handle]]:
        """Return up to ``limit`` bytes and the file descriptors received with them; no bytes at the end of the stream.

        Raises BlockingIOError if nothing has arrived, TransportLost, Unusable if file descriptors were lost.
        """
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(limit, _ROOM, _CLOEXEC)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise TransportLost(_why(exc)) from None
        return data, _take_handles(ancillary, flags) if ancillary or flags & _CUT else []

    def send(self, data: memoryview, handles: Sequence[Handle] = ()) -> int:
        """Send some of ``data``, with duplicates of ``handles``; return the number of bytes.

        Raises BlockingIOError if there is no room, TransportLost.
        """
        try:
            return self._socket.sendmsg([data], _fds_message(handles), _NO_SIGNAL)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise TransportLost(_why(exc)) from None

    def wait(self, events: int, timeout: float) -> bool:
        """Block this process until the socket is ready for ``events``, such as select.POLLIN; False after the timeout.

        ``timeout`` is in seconds.
        """
        return wait_any([(self, events)], timeout)

    def shut_down(self) -> None:
        """End the connection in both directions, which wakes each task that waits for the socket."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has closed it

    def close(self) -> None:
        self._socket.close()


def wait_any(sockets: Iterable[tuple[InstantSocket, int]], timeout: float) -> bool:
    """Block this process until a socket is ready for its events; False after ``timeout`` seconds.

    While the kernel lacks memory for the wait, it returns after a pause, and True: the caller tries its sockets again.
    """
    poll = select.poll()
    for each, events in sockets:
        poll.register(each.fileno(), events)
    try:
        return bool(poll.poll(timeout * 1000))
    except OSError:
        sleep(min(timeout, PAUSE))
        return timeout > 0


class Mapping:
    """`drivers.contracts.ipc.SharedMemory`: a shared mapping of part of a file."""

    def __init__(self, fd: int, size: int, offset: int = 0) -> None:
        """Map ``size`` bytes at ``offset`` of the file. Raises OSError, ValueError."""
        status = os.fstat(fd)
        start, length = mapped_span(offset, size, status.st_size, status.st_blksize)
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
            pass  # slices of the view still exist: the mapping ends with the last of them
        self._map = None


class _Event(FileHandle):
    """A non-blocking eventfd."""

    def __init__(self, handle: Handle) -> None:
        """Take ownership of ``handle``. Closes it and raises Unusable if it is no eventfd."""
        super().__init__(_own(handle).take())
        if not _is_eventfd(self.fileno()):
            self.close()
            raise Unusable("the file descriptor is no eventfd")


def _is_eventfd(fd: int) -> bool:
    """Return whether ``fd`` is an eventfd, and make it non-blocking. Does without /proc, which may not be mounted.

    Only an eventfd both lacks a file type and accepts a write of 8 zero bytes, which leaves its counter as it is.
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
                pass  # the counter is full, so its reader is notified already


class _Watch(_Event):
    def __init__(self, handle: Handle, poller: Poller, callback: Callable[[], object]) -> None:
        self._poller = poller
        super().__init__(handle)
        # Each write is an edge, so the counter is never read: it overflows only after 2^64 writes.
        try:
            poller.watch(self.fileno(), callback, by_task=False)
        except OSError as exc:
            super().close()
            raise Unusable(f"cannot watch another event: {exc.strerror}") from None

    def close(self) -> None:
        if self._fd >= 0:
            self._poller.unregister(self._fd)
        super().close()


class _SocketWatch:
    """A socket in the poller's set."""

    def __init__(self, socket: InstantSocket, poller: Poller, callback: Callable[[], object]) -> None:
        self._fd, self._poller = socket.fileno(), poller
        try:
            poller.watch(self._fd, callback)
        except OSError as exc:
            raise TransportLost(f"cannot watch another connection: {exc.strerror}") from None

    def close(self) -> None:
        self._poller.unregister(self._fd)


class LocalIpc:
    """`drivers.contracts.ipc.Ipc` on this machine."""

    def __init__(self, poller: Poller, *, allow_unsealed: bool = False) -> None:
        """``poller`` watches events. ``allow_unsealed`` accepts memory that its owner can still shrink: accesses
        beyond the new end kill this process with SIGBUS.
        """
        self._poller = poller
        self._allow_unsealed = allow_unsealed

    def fence(self) -> None:
        full_fence()

    def identify(self, handle: Handle) -> tuple[int, int, int]:
        """Return device, inode and size in bytes of a file. Raises Unusable if it is not memory."""
        status = os.fstat(_own(handle).fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("the file descriptor is no memory")
        return status.st_dev, status.st_ino, status.st_size

    def map(self, handle: Handle, size: int, offset: int) -> SharedMemory:
        fd = _own(handle).fileno()
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("the file descriptor is no memory")
            if offset < 0 or size <= 0 or offset + size > status.st_size:
                raise Unusable(f"{size:#x} bytes at offset {offset:#x} exceed memory of {status.st_size:#x} bytes")
            if not self._allow_unsealed and not _seals(fd) & fcntl.F_SEAL_SHRINK:
                raise Unusable(
                    "the memory is not sealed against shrinking: its owner could kill this process by truncating it"
                    " (QEMU: memory-backend-memfd; else --allow-unsealed)"
                )
            return Mapping(fd, size, offset)
        except (OSError, ValueError, OverflowError) as exc:
            raise Unusable(f"cannot map {size:#x} bytes of memory: {exc}") from None

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
            raise Unusable(f"cannot make {size} bytes of shared memory: {exc}") from None

    def instant(self, socket: FdSocket) -> InstantSocket:
        """Return the same socket for calls that do not wait. Raises TypeError for one of another kind of system."""
        if not isinstance(socket, UnixSocket):
            raise TypeError("a socket of another kind of system")
        return socket.instant

    def watch_socket(self, socket: InstantSocket, callback: Callable[[], object]) -> _SocketWatch:
        """Call ``callback`` whenever the socket may have become readable, until the result is closed.

        Raises TransportLost.
        """
        return _SocketWatch(socket, self._poller, callback)

    def make_event(self) -> Handle:
        try:
            return FileHandle(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        except OSError as exc:
            raise Unusable(f"cannot make another event: {exc.strerror}") from None

    def make_channel(self) -> tuple[FdSocket, Handle]:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as exc:
            raise Unusable(f"cannot make another connection: {exc.strerror}") from None
        return UnixSocket(ours), FileHandle(theirs.detach())

    def channel(self, handle: Handle) -> FdSocket:
        handle = _own(handle)
        try:
            received = socket.socket(fileno=handle.fileno())
        except OSError as exc:
            handle.close()
            raise Unusable(f"the file descriptor is no socket: {exc.strerror}") from None
        handle.take()
        if (received.family, received.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            received.close()
            raise Unusable("the file descriptor is no unix stream socket")
        return UnixSocket(received)

    def notifier(self, handle: Handle) -> Notifier:
        return _Notifier(handle, self._poller)

    def watch(self, handle: Handle, callback: Callable[[], None]) -> Handle:
        return _Watch(handle, self._poller, callback)


def notifiers(ipc: Ipc, handles: list[Handle]) -> list[Notifier]:
    """Return the notifying ends of events, whose handles it takes out of the list.

    If one is not an event, closes those that it took and raises Unusable.
    """
    taken: list[Notifier] = []
    try:
        while handles:
            taken.append(ipc.notifier(handles.pop(0)))
    except Unusable:
        for notifier in taken:
            notifier.close()
        raise
    return taken


def _seals(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # the file system does not support seals
        return 0
