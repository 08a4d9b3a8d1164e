"""Framing of messages with file descriptors in a byte stream, for every protocol over unix sockets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import attrs
import trio

from drivers.contracts.ipc import FdSocket, Handle, Unusable
from drivers.errors import DriverError

__all__ = ["FrameAssembler", "ProtocolError", "SessionStatistics", "no_progress", "receive_message", "within"]

M = TypeVar("M")
T = TypeVar("T")


class ProtocolError(DriverError):
    """The other side violated the protocol: the rest of its stream is meaningless."""


@attrs.define(eq=False)
class SessionStatistics:
    """Counters of a server's sessions since it was created."""

    sessions: int = 0
    messages: int = 0
    refused: int = 0
    """Connections refused because another was open."""
    broken: int = 0
    """Sessions that ended with a protocol error or a timeout of the peer."""


class FrameAssembler(ABC, Generic[M]):
    """Splits a byte stream into messages, each a header of a fixed size and a body.

    Receive at most `missing` bytes at a time and `feed` them. File descriptors belong to the message whose first byte
    they accompany, so one receive call must not span two messages.
    """

    def __init__(self, header_size: int, fds_max: int) -> None:
        """``fds_max``: most file descriptors of any message."""
        self._header_size = header_size
        self._fds_max = fds_max
        self._data = bytearray()
        self._handles: list[Handle] = []
        self._size: int | None = None

    @abstractmethod
    def check_header(self, header: bytes, fds: int) -> int:
        """Return the bytes of the body. Raises ProtocolError, also for a wrong number of file descriptors."""

    @abstractmethod
    def make(self, header: bytes, body: bytes, handles: list[Handle]) -> M:
        """Return the message, which owns the handles."""

    @property
    def missing(self) -> int:
        """Bytes missing from the header, or from the message; never 0."""
        return self._header_size + (self._size or 0) - len(self._data)

    @property
    def partial(self) -> bool:
        """Whether part of a message has arrived."""
        return bool(self._data)

    def feed(self, data: bytes, handles: Sequence[Handle] = ()) -> M | None:
        """Return the message that ``data`` completes, or None. On ProtocolError all file descriptors are closed."""
        first = not self._data
        self._handles += handles
        try:
            if not data or len(data) > self.missing:
                raise ProtocolError("more bytes than the message has")
            if handles and not first:
                raise ProtocolError("a file descriptor in the middle of a message")
            self._data += data
            if self._size is None:
                # Reject more handles than any message takes before the header is complete.
                if len(self._handles) > self._fds_max:
                    raise ProtocolError(f"{len(self._handles)} file descriptors with one message")
                if len(self._data) == self._header_size:
                    self._size = self.check_header(bytes(self._data), len(self._handles))
            return self._pop() if self._size is not None and not self.missing else None
        except ProtocolError:
            self.close()
            raise

    def close(self) -> None:
        """Drop the partial message, and close its file descriptors."""
        for handle in self._handles:
            handle.close()
        self._forget()

    def _pop(self) -> M:
        data, handles = bytes(self._data), self._handles
        self._forget()
        return self.make(data[: self._header_size], data[self._header_size :], handles)

    def _forget(self) -> None:
        self._handles = []
        self._data.clear()
        self._size = None


async def receive_message(
    socket: FdSocket, assembler: FrameAssembler[M], deadline: float, peer: str, *, first: bool
) -> M | None:
    """Return the next message; None at the end of the stream.

    The ``peer``, which errors name, has ``deadline`` seconds from a message's first byte to its last; for the ``first``
    message, from now on. Raises ProtocolError, TransportLost.
    """
    with trio.move_on_after(deadline if first else math.inf) as scope:
        while True:
            partial = assembler.partial
            try:
                data, handles = await socket.receive(assembler.missing)
            except Unusable as exc:
                raise ProtocolError(str(exc)) from None
            if not data:
                if partial:
                    raise ProtocolError("the connection ended in the middle of a message")
                return None
            message = assembler.feed(data, handles)
            if message is not None:
                return message
            if not partial and not first:
                scope.deadline = trio.current_time() + deadline
    raise no_progress(deadline, peer)


async def within(deadline: float, peer: str, call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of ``call``. Raises ProtocolError if the ``peer`` makes it last more than ``deadline`` s."""
    with trio.move_on_after(deadline):
        return await call()
    raise no_progress(deadline, peer)


def no_progress(deadline: float, peer: str) -> ProtocolError:
    """Return the error for a ``peer`` that made no progress for ``deadline`` seconds."""
    return ProtocolError(f"the {peer} made no progress for {deadline:g} s")
