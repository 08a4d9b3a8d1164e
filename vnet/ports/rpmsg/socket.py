"""An rpmsg channel as a unix socket that preserves message boundaries (SOCK_SEQPACKET)."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import trio

from drivers.contracts.ports import RpmsgEndpoint
from vnet.linux.unix_socket import Acceptor, listen
from vnet.linux.waits import wait_readable, wait_writable
from vnet.ports.rpmsg.surface import Surface, deliver_patiently

__all__ = ["SocketSurface"]

BACKLOG = 16
RECEIVE_SIZE = 1 << 17
"""Size of a receive in bytes: larger than any message."""


class SocketSurface(Surface):
    """A socket that serves one program at a time; others wait until it disconnects.

    A packet is a message. Empty messages are dropped, because an empty packet looks like a disconnect. While no
    program is connected, the endpoint's inbox keeps messages until it is full; later ones are dropped.
    """

    kind = "socket"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    async def serve(
        self, endpoint: RpmsgEndpoint, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with listen(self.path, socket.SOCK_SEQPACKET, BACKLOG) as listening:
            endpoint.lossy = True
            acceptor = Acceptor(listening)
            task_status.started()
            while True:
                with await acceptor.accept() as client:
                    await self._converse(client, endpoint)

    async def _converse(self, client: socket.socket, endpoint: RpmsgEndpoint) -> None:
        endpoint.lossy = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give, client, endpoint, nursery.cancel_scope)
                while data := await _receive(client):
                    await self.send(endpoint, data)
                nursery.cancel_scope.cancel()
        finally:
            endpoint.lossy = True

    async def _give(self, client: socket.socket, endpoint: RpmsgEndpoint, scope: trio.CancelScope) -> None:
        async for message in endpoint:
            if not message:
                self.drop("empty")
                continue
            try:
                try:
                    client.send(message)
                except BlockingIOError:
                    await deliver_patiently(endpoint, partial(_send, client, message))
            except OSError:
                self.drop("hung_up")
                scope.cancel()
                return


async def _receive(client: socket.socket) -> bytes:
    """Wait for the next packet; return an empty one after a disconnect."""
    while True:
        await wait_readable(client)
        try:
            return client.recv(RECEIVE_SIZE)
        except BlockingIOError:
            continue
        except OSError:
            return b""


async def _send(client: socket.socket, message: bytes) -> None:
    while True:
        await wait_writable(client)
        try:
            client.send(message)
        except BlockingIOError:
            continue
        return
