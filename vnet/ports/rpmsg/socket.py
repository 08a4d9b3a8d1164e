"""A channel as a unix socket that keeps messages apart (SOCK_SEQPACKET)."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import trio

from drivers.contracts.ports import RpmsgEndpoint
from vnet.linux.unix_socket import accept, listen
from vnet.ports.rpmsg.surface import Surface, patiently

__all__ = ["SocketSurface"]

BACKLOG = 16
LONGEST = 1 << 17
"""Bytes to receive at a time: more than any message can have."""


class SocketSurface(Surface):
    """One program at a time has the channel; others wait until it hangs up.

    A packet is a message. Empty ones are dropped: they look like the end. While nobody is connected the inbox keeps
    as many messages as it holds; what comes then is dropped.
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
            task_status.started()
            while True:
                with await accept(listening) as client:
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
                    await patiently(endpoint, partial(_send, client, message))
            except OSError:
                self.drop("hung_up")
                scope.cancel()
                return


async def _receive(client: socket.socket) -> bytes:
    """The next packet; nothing when there is no other."""
    while True:
        await trio.lowlevel.wait_readable(client)
        try:
            return client.recv(LONGEST)
        except BlockingIOError:
            continue
        except OSError:
            return b""


async def _send(client: socket.socket, message: bytes) -> None:
    while True:
        await trio.lowlevel.wait_writable(client)
        try:
            client.send(message)
        except BlockingIOError:
            continue
        return
