"""Sends replies and data to an NBD client, data directly from the buffers that the device wrote."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from drivers.flow.pump import Signal
from drivers.storage.bounce import Buffer
from rings.chain import skip
from vnet.linux.waits import wait_writable
from vnet.nbd import NbdCommand

__all__ = ["Outbox"]

REPLIES = 64
"""Maximum replies per system call: together they have fewer than 1024 buffers, which is the kernel's limit."""
Reply = tuple[list[memoryview], int, Buffer | None, NbdCommand | None]
"""Views to send, their bytes, and what `Outbox` calls ``sent`` with afterwards."""


class Outbox:
    """Queue of bytes to send. Calls ``sent`` with their buffer and command after sending."""

    def __init__(self, client: socket.socket, sent: Callable[[Buffer | None, NbdCommand | None], None]) -> None:
        self._socket = client
        self._sent = sent
        self._replies: deque[Reply] = deque()
        self._filled = Signal()
        self._held = False

    def put(
        self,
        head: bytes,
        data: Sequence[memoryview] = (),
        buffer: Buffer | None = None,
        command: NbdCommand | None = None,
    ) -> None:
        """Queue a reply and its data, and wake `send`, unless `send_all_of` is at work."""
        size = len(head)
        for view in data:
            size += len(view)
        self._replies.append(([memoryview(head), *data], size, buffer, command))
        if not self._held:
            self._filled.set()

    def send_all_of(self, call: Callable[[], None]) -> None:
        """Send the replies that ``call`` queues here and together, as far as that does not block. Raises OSError.

        It saves waking the task of `send`, which sends the rest.
        """
        self._held = True
        try:
            call()
        finally:
            self._held = False
        if self._replies:
            if self._filled.awaited:  # else the task of `send` is in the middle of a reply
                self._send_now()
            if self._replies:
                self._filled.set()

    async def send(self) -> None:
        """Send until cancelled. Raises OSError."""
        while True:
            while not self._send_now():
                await wait_writable(self._socket)
            await self._filled.wait()

    def _send_now(self) -> bool:
        """Send until all is sent, then return True, or until that would block. Raises OSError."""
        replies = self._replies
        while replies:
            try:
                sent = self._socket.sendmsg([view for views, *_ in islice(replies, REPLIES) for view in views])
            except BlockingIOError:
                return False
            while sent:
                views, size, buffer, command = replies[0]
                if sent < size:
                    replies[0] = skip(views, sent), size - sent, buffer, command
                    break
                sent -= size
                self._done()
        return True

    def drop(self) -> None:
        """Free all queued buffers after the client disconnected."""
        while self._replies:
            self._done()

    def _done(self) -> None:
        _, _, buffer, command = self._replies.popleft()
        if buffer is not None or command is not None:
            self._sent(buffer, command)
