"""The control socket: it accepts clients, and refuses those beyond its limits."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import trio

from vnet.linux.unix_socket import Acceptor, listen, owner_uid
from vnet.qmp.codec import QmpError
from vnet.qmp.commands import tree_of
from vnet.qmp.session import Session, reject
from vnet.system.world import World

__all__ = ["ControlServer"]

CLIENTS_MAX = 64
"""Clients at the same time."""
BACKLOG = 16
"""Connections that wait to be accepted."""


class ControlServer:
    """The control socket of a world. ``quit`` is set when a client sends quit."""

    def __init__(self, world: World) -> None:
        self.quit = trio.Event()
        self._world = world
        self._clients = 0
        self._tree = tree_of(world)

    async def cancel_at_quit(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when a client sends quit."""
        await self.quit.wait()
        scope.cancel()

    async def serve(self, path: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen at ``path`` until cancelled. Raises OSError."""
        with listen(path, socket.SOCK_STREAM, BACKLOG) as listening:
            async with trio.open_nursery() as nursery:
                acceptor = Acceptor(listening)
                task_status.started()
                while True:
                    nursery.start_soon(self._admit, await acceptor.accept())

    async def _admit(self, client: socket.socket) -> None:
        """Serve a client of this user or of root."""
        uid = owner_uid(client)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
            if uid not in (0, os.geteuid()):
                return
            if self._clients < CLIENTS_MAX:
                await self.converse(stream)
            else:
                await reject(stream, QmpError(f"there are {CLIENTS_MAX} clients already"))

    async def converse(self, stream: trio.abc.Stream) -> None:
        """Serve one client until it disconnects. Its requests and pauses do not disturb other clients."""
        self._clients += 1
        try:
            await Session(stream, self._world, self.quit, self._tree).run()
        finally:
            self._clients -= 1
