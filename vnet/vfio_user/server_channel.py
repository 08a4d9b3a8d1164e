"""The connection of a client: its commands, which a task awaits, and our requests, which block until their reply."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from select import POLLIN, POLLOUT

import trio

from drivers.carriers.framing import ProtocolError, no_progress
from drivers.contracts.ipc import Handle, Unusable
from drivers.errors import TransportLost
from drivers.flow.pump import Signal
from vnet.linux.ipc import InstantSocket, wait_any
from vnet.linux.patience import Patience
from vnet.linux.waits import wait_writable
from vnet.vfio_user.constants import Command
from vnet.vfio_user.messages import (
    HEADER_SIZE,
    POSTED_SIZE,
    Assembler,
    Message,
    command_name,
    declared_size,
    emit,
    parse_posted,
    parse_reply,
)
from vnet.vfio_user.payloads import Payload, Refused

__all__ = ["DEADLINE", "ServerChannel"]

DEADLINE = 5.0
"""Seconds that a client may take to send its first message, to finish a message, and to receive a reply."""
PEER = "client"
MESSAGES_MAX = 1024
"""Most messages of all clients before the reply to a request."""
TURN = 64
"""Most commands that are served before other tasks run."""
RECEIVE_MIN = POSTED_SIZE + 1
"""Least bytes of a receive call after a command without a reply: room for more than a doorbell, so that a doorbell that
comes alone shows that no more has arrived."""
REQUESTS_MAX = 8
"""Most requests without a reply: each further one is made by a command that arrived instead of a reply."""


_CHANNELS: trio.lowlevel.RunVar[list[ServerChannel]] = trio.lowlevel.RunVar("channels")


def _channels() -> list[ServerChannel]:
    """Return all connections of this event loop: several may be of one client."""
    try:
        return _CHANNELS.get()
    except LookupError:
        _CHANNELS.set([])
        return _CHANNELS.get()


class ServerChannel:
    """A connection: `run` serves it, and `request` blocks and serves all connections meanwhile.

    A client may wait for the reply to a command, of this or another function, before it answers a request, as QEMU
    does. Both raise ProtocolError if the client violates the protocol or is silent, TransportLost if it is gone; then
    the connection has ended, and they raise it again.
    """

    def __init__(
        self,
        socket: InstantSocket,
        patience: Patience,
        serve: Callable[[Message], None],
        ring: Callable[[int, int, int], bool],
        settle: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """``socket`` stays its owner's. ``serve`` handles a command and posts the reply. Raises ProtocolError.

        ``ring`` handles a posted write of a value to a doorbell's BAR and offset, or returns False if it is none.
        ``settle``, if commands take time, sleeps until those so far are done: replies are sent then.
        """
        self._socket = socket
        self._patience = patience
        self._serve = serve
        self._ring = ring
        self._settle = settle
        self._assembler = Assembler(server=True)
        self._received = b""
        """Received bytes that the assembler has not been fed with yet."""
        self._handles: list[Handle] = []
        """File descriptors received with them."""
        self._empty = False
        """Whether the last receive call has shown that no more had arrived."""
        self._eager = False
        """Whether the last message was a command without a reply, such as a doorbell: another one may follow."""
        self._outgoing: deque[tuple[memoryview, Sequence[Handle]]] = deque()
        self._number = 0
        self._requests: dict[int, Command] = {}
        """Requests without a reply."""
        self._replies: dict[int, Payload | Refused] = {}
        self._scope = trio.CancelScope()
        """Scope of `run`; its deadline is that of a message of which a part has arrived, or of the first one."""
        self._end: ProtocolError | TransportLost | None = None
        self._hung_up = False
        self.readable = Signal()
        """To be set whenever the socket may have become readable."""
        _channels().append(self)

    async def run(self) -> None:
        """Serve commands until the client hangs up, in the task that sets `readable` if they take no time."""
        with self._scope:
            self._scope.deadline = trio.current_time() + DEADLINE
            while not self._hung_up:
                served = self._serve_some()
                self._check()
                if self._settle is not None:
                    await self._settle()
                if self._outgoing:
                    await self._send()
                elif served == TURN:
                    await trio.lowlevel.checkpoint()
                elif not served:
                    await self.readable.wait(self._serve_in_place if self._settle is None else None)
            return
        raise self.end(no_progress(DEADLINE, PEER))

    def _serve_in_place(self) -> bool:
        """Serve what has arrived; return whether `run` may go on waiting."""
        if self._eager and not self._outgoing and self._open:  # the usual case at high throughput, with fewer calls
            try:
                if self._take_doorbell():
                    return self._open
            except BlockingIOError:
                return True
            except EOFError:
                pass  # it is met again
            except (ProtocolError, TransportLost) as exc:
                self.end(exc)
        served = self._serve_some()
        return served < TURN and not self._outgoing and self._open

    def _serve_some(self) -> int:
        """Serve up to `TURN` commands, or up to 1 if they take time; return how often there was something to do."""
        turn = TURN if self._settle is None else 1
        for done in range(turn):
            if not self._open or not self._advance() or self._outgoing:
                return done
            if self._empty:
                self._empty = False
                return done + 1
        return turn

    async def _send(self) -> None:
        with trio.move_on_after(DEADLINE):
            while not self._flush():
                await wait_writable(self._socket.fileno())
            return
        raise self.end(no_progress(DEADLINE, PEER))

    def post(self, data: bytes, handles: Sequence[Handle] = ()) -> None:
        """Send later, and before any other message."""
        self._outgoing.append((memoryview(data), handles))

    def request(self, command: Command, payload: Payload) -> Payload:
        """Return the body of the reply to a request; this process does nothing but serve clients until then.

        Raises Refused.
        """
        self._check()
        if len(self._requests) >= REQUESTS_MAX:
            raise self.end(ProtocolError(f"{command.name}: {REQUESTS_MAX} requests wait for replies already"))
        self._number = (self._number + 1) & 0xFFFF
        number = self._number
        self._requests[number] = command
        self.post(emit(number, command, payload))
        try:
            return self._wait(number, command)
        finally:
            del self._requests[number]

    def close(self) -> None:
        """End the connection; the socket is its owner's to close."""
        self.end(TransportLost("the connection is closed"))
        self._assembler.close()
        while self._handles:
            self._handles.pop().close()
        self._outgoing.clear()
        _channels().remove(self)

    def _wait(self, number: int, command: Command) -> Payload:
        spent, messages = 0.0, 0
        while number not in self._replies:
            self._check()
            if self._hung_up:
                raise TransportLost("the client hung up")
            channels = [channel for channel in _channels() if channel._open]
            arrived = sum([channel._advance() for channel in channels])
            messages += arrived
            if messages > MESSAGES_MAX:
                raise self.end(ProtocolError(f"{command.name}: {MESSAGES_MAX} messages before its reply"))
            if arrived or number in self._replies:
                continue
            waits = [(channel._socket, channel._events) for channel in channels if channel._open]
            took = self._patience.wait(lambda timeout: wait_any(waits, timeout), spent)  # noqa: B023
            if took is None:
                raise self.end(ProtocolError(f"{command.name}: the client takes too long to answer"))
            spent += took
        reply = self._replies.pop(number)
        if isinstance(reply, Refused):
            raise reply
        return reply

    @property
    def _open(self) -> bool:
        return self._end is None and not self._hung_up

    @property
    def _events(self) -> int:
        return POLLIN | POLLOUT if self._outgoing else POLLIN

    def _advance(self) -> bool:
        """Send what there is room for, then serve one message, if it has arrived; return whether anything has."""
        try:
            if self._outgoing:
                self._flush()
            message = self._receive_now()
            if message is None:  # a doorbell
                return True
            self._eager = not message.need_reply and not message.is_reply
            if self._scope.deadline != math.inf:
                self._scope.deadline = math.inf
            if message.is_reply:
                self._take(message)
            else:
                try:
                    self._serve(message)
                finally:
                    message.close()
                    if self._settle is None and self._outgoing:
                        self._flush()
        except BlockingIOError:
            if self._assembler.partial and self._scope.deadline == math.inf:
                self._scope.deadline = trio.current_time() + DEADLINE
            return False
        except EOFError:
            if self._assembler.partial:
                self.end(ProtocolError("the connection ended in the middle of a message"))
            else:
                self._hung_up = True
        except (ProtocolError, TransportLost) as exc:
            self.end(exc)
        return True

    def _take(self, message: Message) -> None:
        """Keep the reply to a request."""
        try:
            if self._requests.get(message.number) != message.command or message.number in self._replies:
                raise ProtocolError(f"{command_name(message.command)}: reply {message.number}: no such request waits")
            self._replies[message.number] = parse_reply(message)
        except Refused as exc:
            self._replies[message.number] = exc
        except ProtocolError as exc:
            raise self.end(exc) from None
        finally:
            message.close()

    def _receive_now(self) -> Message | None:
        """Return the next message; None if it was a doorbell, which is handled then.

        Raises BlockingIOError if none has arrived, EOFError, ProtocolError, TransportLost.
        """
        if self._take_doorbell():
            self._empty = True
            return None
        while True:
            if not self._received:
                self._receive()
            message = self._feed()
            if message is not None:
                return message

    def _take_doorbell(self) -> bool:
        """Receive, and handle what has arrived if it is a doorbell alone; return whether it was.

        Raises as `_receive`. Does nothing if part of a message has arrived before.
        """
        if self._received or self._assembler.partial:
            return False
        self._receive()
        posted = None if self._handles else parse_posted(self._received)
        if posted is None:
            return False
        data, self._received = self._received, b""  # a request of the device may receive meanwhile
        if self._ring(*posted):
            return True
        self._received = data
        return False

    def _receive(self) -> None:
        """Receive some bytes. Raises BlockingIOError, EOFError, ProtocolError, TransportLost."""
        if self._empty:
            self._empty = False
            raise BlockingIOError
        # A call that may reach beyond a header can't tell which byte file descriptors came with. Clients send those
        # with commands that have a reply, so it is made only after one without a reply.
        size = max(self._assembler.missing, RECEIVE_MIN) if self._eager else self._assembler.missing
        try:
            self._received, self._handles = self._socket.receive(size)
        except Unusable as exc:
            raise ProtocolError(str(exc)) from None
        if not self._received:
            raise EOFError

    def _feed(self) -> Message | None:
        """Feed the assembler; return the message that is complete then. Raises ProtocolError."""
        data = self._received
        missing = self._assembler.missing
        part, self._received = data[:missing], data[missing:]
        # A receive call ends with the message that file descriptors came with.
        last = len(data) <= missing if self._assembler.partial else not HEADER_SIZE <= declared_size(data) < len(data)
        handles: list[Handle] = []
        if last:
            handles, self._handles = self._handles, handles
        return self._assembler.feed(part, handles)

    def _flush(self) -> bool:
        """Send as much as there is room for; return whether that is all."""
        self._check()
        while self._outgoing:
            data, handles = self._outgoing[0]
            try:
                sent = self._socket.send(data, handles)
            except BlockingIOError:
                return False
            except TransportLost as exc:
                raise self.end(exc) from None
            if sent == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = data[sent:], ()  # descriptors are sent with the first byte
        return True

    def _check(self) -> None:
        if self._end is not None:
            raise self._end

    def end(self, cause: ProtocolError | TransportLost) -> ProtocolError | TransportLost:
        """End the connection, for this cause unless it has ended before; return the cause."""
        if self._end is None:
            self._end = cause
            self._socket.shut_down()
        return self._end
