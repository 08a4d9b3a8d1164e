"""A server of one connection at a time: the end of a connection."""

from __future__ import annotations

import socket
import weakref

import pytest
import trio

from drivers.carriers.framing import ProtocolError
from drivers.carriers.server import SessionServer
from drivers.contracts.ipc import FdSocket
from vnet.linux.ipc import UnixSocket


class Memory:
    """A peer's memory, as far as this test needs it."""


class Server(SessionServer):
    """A server whose peer violates the protocol."""

    memory: weakref.ref[Memory]
    accepts = True

    async def converse(self, socket: FdSocket) -> None:
        memory = Memory()
        self.memory = weakref.ref(memory)
        await trio.lowlevel.checkpoint()
        raise ProtocolError("a test")

    async def accompany(self) -> None:
        await trio.sleep_forever()

    async def leave(self) -> None:
        pass


@pytest.mark.usefixtures("uncollected")
async def test_an_error_keeps_the_memory_of_its_session_only_while_it_is_handled() -> None:
    ours, theirs = socket.socketpair()
    server = Server()
    with theirs, pytest.raises(ProtocolError, match="a test"):
        await server.serve_connection(UnixSocket(ours))
    assert server.memory() is None
