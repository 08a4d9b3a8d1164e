"""Inter-process interfaces of a transport: a socket that passes file descriptors, shared memory, events.

``vnet`` implements them. A file descriptor is a `Handle`, which its owner closes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from drivers.errors import DriverError

__all__ = ["FdSocket", "Handle", "Ipc", "Notifier", "SharedMemory", "Unusable"]


class Unusable(DriverError):
    """An unsuitable file descriptor, such as memory that its owner could still truncate."""


class Handle(Protocol):
    """A file descriptor received from another process, or to be passed to one."""

    def close(self) -> None:
        """Close the file descriptor; harmless if it is closed already."""


class SharedMemory(Protocol):
    """Memory shared with another process and mapped in this one."""

    @property
    def view(self) -> memoryview:
        """A writable view of the whole mapping."""

    def close(self) -> None:
        """Unmap the memory, once all slices of the view are released. Harmless if it is closed already."""


class Notifier(Handle, Protocol):
    """The notifying end of an event (eventfd); it can be passed on as well."""

    def notify(self) -> None:
        """Notify the other end. Never blocks or fails; unread notifications coalesce."""


class FdSocket(Protocol):
    """One end of a connected unix stream socket."""

    async def receive(self, limit: int) -> tuple[bytes, list[Handle]]:
        """Return up to ``limit`` bytes and the file descriptors received with them; no bytes at the end of the stream.

        The caller owns the handles. Raises TransportLost if the connection broke, Unusable if file descriptors were
        lost: then all others are closed.
        """

    async def send(self, data: bytes, handles: Sequence[Handle] = ()) -> None:
        """Send all of ``data``, with duplicates of ``handles``, which the caller still owns. Raises TransportLost."""

    def hung_up(self) -> bool:
        """Return whether the peer has closed its end, though what it sent before may still wait here."""

    def close(self) -> None:
        """Close the socket; harmless if it is closed already."""


class Ipc(Protocol):
    """Factory of resources shared between two processes."""

    def map(self, handle: Handle, size: int, offset: int) -> SharedMemory:
        """Map ``size`` bytes from ``offset`` of a file for reading and writing. The handle may be closed afterwards.

        Raises Unusable if the file is not memory, is too short, or is not sealed against shrinking.
        """

    def make(self, size: int) -> tuple[SharedMemory, Handle]:
        """Return ``size`` bytes of zeroed, sealed memory, and its handle for another process. Raises Unusable."""

    def fence(self) -> None:
        """Execute a full memory barrier, see `rings.memory.Memory.fence`."""

    def make_event(self) -> Handle:
        """Return a new event without notifications. Raises Unusable if there are too many file descriptors."""

    def make_channel(self) -> tuple[FdSocket, Handle]:
        """Return one end of a new connection, and the other end's handle. Raises Unusable without free descriptors."""

    def channel(self, handle: Handle) -> FdSocket:
        """Return the end of a connection received from another process. Takes ownership of the handle.

        If it is not a socket, closes it and raises Unusable.
        """

    def notifier(self, handle: Handle) -> Notifier:
        """Return the notifying end of an event. Takes ownership of the handle.

        If it is not an event, closes it and raises Unusable.
        """

    def watch(self, handle: Handle, on_event: Callable[[], None]) -> Handle:
        """Call ``on_event`` after each notification, until the returned handle is closed.

        Takes ownership of ``handle``; the returned one can be passed on as well. ``on_event`` runs to completion in the
        polling task. If the handle is not an event, closes it and raises Unusable.
        """
