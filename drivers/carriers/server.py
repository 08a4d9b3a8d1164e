"""A server of one connection at a time, for every protocol over unix sockets."""

from __future__ import annotations

from abc import ABC, abstractmethod

import trio

from drivers.carriers.framing import ProtocolError, SessionStatistics
from drivers.contracts.ipc import FdSocket
from drivers.errors import TransportLost

__all__ = ["SessionServer"]


class SessionServer(ABC):
    """Serves peers at sockets that the caller accepts; it refuses a peer while another is connected."""

    def __init__(self) -> None:
        self.statistics = SessionStatistics()
        self._scope: trio.CancelScope | None = None
        """Scope of the connection; None without one."""
        self._socket: FdSocket | None = None
        """Socket of the connection."""
        self._free = trio.Event()
        """Set at the end of the connection."""

    @property
    @abstractmethod
    def accepts(self) -> bool:
        """Whether there is something to serve."""

    @abstractmethod
    async def converse(self, socket: FdSocket) -> None:
        """Serve a peer until it disconnects. Raises ProtocolError, TransportLost."""

    @abstractmethod
    async def accompany(self) -> None:
        """Run beside `converse`, whose end cancels it."""

    @abstractmethod
    async def leave(self) -> None:
        """Release all that the peer shared; called after each `converse`."""

    @property
    def connected(self) -> bool:
        return self._scope is not None

    def disconnect(self) -> None:
        """End the connection, if there is one."""
        if self._scope is not None:
            self._scope.cancel()

    async def wait_free(self) -> None:
        """Wait until a peer that has hung up is let go: the next one may come before its end is read."""
        while self._socket is not None and self._socket.hung_up():
            await self._free.wait()

    async def serve_connection(self, socket: FdSocket) -> None:
        """Serve a peer until it disconnects; refuse it if another is connected, or if there is nothing to serve.

        Takes over the socket. Raises ProtocolError or TransportLost if the connection ends in any other way.
        """
        if self.connected or not self.accepts:
            self.statistics.refused += 1
            socket.close()
            return
        self._scope, self._socket, self._free = trio.CancelScope(), socket, trio.Event()
        self.statistics.sessions += 1
        error: ProtocolError | TransportLost | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.accompany)
                    try:
                        await self.converse(socket)
                    except (ProtocolError, TransportLost) as exc:
                        error = exc
                    nursery.cancel_scope.cancel()
        finally:
            await self.leave()
            self._scope = self._socket = None
            socket.close()
            self._free.set()
        if error is not None:
            self.statistics.broken += isinstance(error, ProtocolError)
            try:
                raise error
            finally:
                del error  # its traceback has this frame, and those of the session with the peer's memory
