"""A connection to a vfio-user server: requests that a task awaits, and those that block as a processor's load does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Sequence
from select import POLLIN, POLLOUT
from typing import TypeVar

import trio

from drivers.carriers.framing import ProtocolError
from drivers.contracts.ipc import Handle, Unusable
from drivers.errors import TransportLost
from vnet.linux.ipc import InstantSocket
from vnet.linux.patience import Patience
from vnet.linux.waits import wait_readable, wait_writable
from vnet.vfio_user.client.session import ClientSession, Reply
from vnet.vfio_user.constants import Command
from vnet.vfio_user.messages import Assembler, Message, error
from vnet.vfio_user.payloads import Payload, Refused

__all__ = ["DEADLINE", "Channel"]

T = TypeVar("T")
Steps = Generator[int, None, T]
"""Yields what to wait for, select.POLLIN or POLLOUT, and returns a result."""
DEADLINE = 5.0
"""Seconds that a server may take to answer a request of the handshake."""
COMMANDS_MAX = 1024
"""Most commands of the server before its reply to a request."""


class Channel:
    """One connection. `ask` is for the handshake; `watch` runs after it, beside `call` and `post`.

    All calls raise ProtocolError if the server violates the protocol or is silent, TransportLost if it hangs up;
    then the connection has ended, and `call` and `post` raise it again.
    """

    def __init__(self, connected: socket.socket, patience: Patience) -> None:
        """Take ownership of ``connected``, which is non-blocking."""
        self._socket = InstantSocket(connected)
        self._session = ClientSession()
        self._assembler = Assembler(server=True)
        self._patience = patience
        self._end: ProtocolError | TransportLost | None = None
        self.serve: Callable[[Message], bytes] = _refuse
        """Returns the reply to a command of the server. Raises Refused."""

    @property
    def unconfirmed(self) -> bool:
        """Whether the server may not have handled the last posted request yet."""
        return self._session.unconfirmed

    async def ask(self, command: Command, payload: Payload | None = None, handles: Sequence[Handle] = ()) -> Reply:
        """Return the reply to a request. Raises Refused."""
        with trio.move_on_after(DEADLINE):
            steps = self._exchange(command, payload, handles)
            try:
                while True:
                    wait = wait_readable if next(steps) == POLLIN else wait_writable
                    await wait(self._socket.fileno())
            except StopIteration as done:
                reply: Reply = done.value
                return reply
            except (ProtocolError, TransportLost) as exc:
                raise self._ended(exc) from None
        raise self._ended(ProtocolError(f"{command.name}: the server did not answer for {DEADLINE:g} s"))

    def call(self, command: Command, payload: Payload | None = None, handles: Sequence[Handle] = ()) -> Reply:
        """Return the reply to a request; this process does nothing else until then. Raises Refused."""
        return self._block(command, self._exchange(command, payload, handles))

    def post(self, command: Command, payload: Payload | None = None) -> None:
        """Send a request without a reply."""
        self._block(command, self._send(self._session.post(command, payload)))

    async def watch(self) -> ProtocolError | TransportLost:
        """Serve commands of the server until the connection ends; return why."""
        while (end := self._end) is None:
            await wait_readable(self._socket.fileno())
            self._serve_one()
        return end

    def _serve_one(self) -> None:
        """Serve a command of the server, if one has arrived."""
        try:
            if self._end is None and (message := self._receive_now()) is not None:
                if message.is_reply:
                    self._take(message)  # raises ProtocolError: no request waits
                self._block(Command.DMA_READ, self._answer(message))
        except (ProtocolError, TransportLost) as exc:
            self._ended(exc)

    def close(self) -> None:
        self._ended(TransportLost("the connection is closed"))
        self._assembler.close()
        self._socket.close()

    def _ended(self, cause: ProtocolError | TransportLost) -> ProtocolError | TransportLost:
        """Note why the connection ended, the first time, and end it."""
        if self._end is None:
            self._end = cause
            self._socket.shut_down()
        return self._end

    def _block(self, command: Command, steps: Steps[T]) -> T:
        if self._end is not None:
            steps.close()
            raise self._end
        spent = 0.0
        try:
            while True:
                events = next(steps)
                took = self._patience.wait(lambda timeout: self._socket.wait(events, timeout), spent)  # noqa: B023
                if took is None:
                    raise ProtocolError(f"{command.name}: the server takes too long to answer")
                spent += took
        except StopIteration as done:
            result: T = done.value
            return result
        except (ProtocolError, TransportLost) as exc:
            raise self._ended(exc) from None

    def _exchange(self, command: Command, payload: Payload | None, handles: Sequence[Handle]) -> Steps[Reply]:
        yield from self._send(self._session.request(command, payload), handles)
        for _ in range(COMMANDS_MAX):
            while (message := self._receive_now()) is None:
                yield POLLIN
            if message.is_reply:
                return self._take(message)
            yield from self._answer(message)
        raise ProtocolError(f"{command.name}: the server sent {COMMANDS_MAX} commands instead of a reply")

    def _take(self, message: Message) -> Reply:
        try:
            return self._session.take(message)
        finally:
            message.close()

    def _answer(self, message: Message) -> Steps[None]:
        """Serve a command of the server."""
        try:
            reply = self.serve(message)
        except Refused as exc:
            reply = error(message, exc.number)
        finally:
            message.close()
        if message.need_reply:
            yield from self._send(reply)

    def _send(self, data: bytes, handles: Sequence[Handle] = ()) -> Steps[None]:
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left, handles) :]
                handles = ()  # sent with the first byte
            except BlockingIOError:
                yield POLLOUT

    def _receive_now(self) -> Message | None:
        """Return the next message if it has arrived."""
        while True:
            try:
                data, handles = self._socket.receive(self._assembler.missing)
            except BlockingIOError:
                return None
            except Unusable as exc:
                raise ProtocolError(str(exc)) from None
            if not data:
                raise TransportLost("the server hung up")
            message = self._assembler.feed(data, handles)
            if message is not None:
                return message


def _refuse(message: Message) -> bytes:
    raise Refused("no memory is shared yet")
