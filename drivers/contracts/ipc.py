"""What a transport between two processes stands on: a socket that passes file descriptors, shared memory, events.

``vnet`` implements it. A file descriptor is a `Handle` here: it has an owner, and whoever owns it closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from drivers.errors import DriverError

__all__ = ["FdSocket", "Handle", "Ipc", "Notifier", "SharedMemory", "Unusable"]


class Unusable(DriverError):
    """A file descriptor that is not what it has to be, such as memory that its owner could still take away."""


class Handle(Protocol):
    """A file descriptor that came from another process, or is about to be passed to one."""

    def close(self) -> None:
        """Twice is harmless."""


class SharedMemory(Protocol):
    """Memory that another process has, too, mapped here."""

    @property
    def view(self) -> memoryview:
        """All of it, writable."""

    def close(self) -> None:
        """Unmap it; slices of the view that are still held keep it until they are gone. Twice is harmless."""


class Notifier(Handle, Protocol):
    """The end of an event (eventfd) that tells; it can be passed on as well."""

    def notify(self) -> None:
        """Never waits and never fails: what nobody has heard yet is told already."""


class FdSocket(Protocol):
    """One end of a connected unix stream socket."""

    async def receive(self, limit: int) -> tuple[bytes, list[Handle]]:
        """At least one and at most ``limit`` bytes, and the file descriptors that came with them; no bytes at the end.

        The caller owns the handles. Raises TransportLost where the connection broke, Unusable where file descriptors
        were lost on the way: then all others are closed.
        """

    async def send(self, data: bytes, handles: Sequence[Handle] = ()) -> None:
        """All of ``data``, with copies of ``handles``, which stay the caller's. Raises TransportLost."""

    def close(self) -> None:
        """Twice is harmless."""


class Ipc(Protocol):
    """Makes and takes what two processes share."""

    def map(self, handle: Handle, size: int, offset: int) -> SharedMemory:
        """``size`` bytes from ``offset`` of the file, to be read and written. The handle may be closed afterwards.

        Raises Unusable: no memory, shorter than that, or not sealed against shrinking.
        """

    def make(self, size: int) -> tuple[SharedMemory, Handle]:
        """``size`` bytes of zeroed memory, sealed, and what to pass to another process. Raises Unusable."""

    def fence(self) -> None:
        """A full memory barrier, as `rings.memory.Memory.fence`."""

    def make_event(self) -> Handle:
        """A new event that nobody has told yet. Raises Unusable where there are too many."""

    def make_channel(self) -> tuple[FdSocket, Handle]:
        """One end of a new connection, and what to pass to another process as the other. Raises Unusable likewise."""

    def channel(self, handle: Handle) -> FdSocket:
        """The end of a connection that came from another process: takes the handle over.

        Raises Unusable, and closes it, where it is none.
        """

    def notifier(self, handle: Handle) -> Notifier:
        """To tell through an event: takes the handle over. Raises Unusable, and closes it, where it is none."""

    def watch(self, handle: Handle, told: Callable[[], None]) -> Handle:
        """Call ``told`` whenever the event is told, until what is returned is closed: takes the handle over.

        What is returned can be passed on as well. ``told`` runs to completion in the task that watches. Raises
        Unusable, and closes the handle, where it is none.
        """
