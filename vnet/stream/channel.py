"""One connection: packets of both directions, by tasks and by accesses that block as a processor's load does."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from select import POLLIN, POLLOUT
from typing import Any

import trio

from drivers.carriers.framing import ProtocolError
from drivers.contracts.ipc import Unusable
from drivers.errors import DriverError, TransportLost
from vnet.link.datalink.errors import DataLinkError
from vnet.link.transaction.bulk import emit_write, parse_bulk, spans
from vnet.link.transaction.codec import emit
from vnet.link.transaction.fields import MessageCode
from vnet.link.transaction.packets import (
    Completion,
    ConfigRead,
    ConfigWrite,
    Header,
    Message,
)
from vnet.link.wire.completer import Completer, requester_of
from vnet.link.wire.errors import Failure, TransactionError
from vnet.linux.ipc import InstantSocket
from vnet.linux.patience import Patience
from vnet.linux.waits import wait_readable, wait_writable
from vnet.stream.cipher import Cipher
from vnet.stream.credits import CreditGate, CreditGrant
from vnet.stream.frames import CONTROL, Control, Frames, control, parse_control
from vnet.stream.reads import Reads, Transfer
from vnet.stream.served import ChannelEvents, Data, Served, is_posted, units_of

__all__ = ["BEAT", "BEATS", "Channel"]

RECEIVE_MAX = 256 << 10
SEND_AT = 128 << 10
"""Bytes of gathered packets that are sent at once."""
BACKLOG_MAX = 16 << 20
"""Bytes that wait to be sent, above which nothing more is received."""
BEAT = 1.0
"""Seconds between two signs of life."""
BEATS = 5
"""Beats without a byte from the other side, after which the connection ends."""


class Channel:
    """Calls that access the other side raise ProtocolError if it violates the protocol or is silent, TransportLost if
    it hangs up; then the connection has ended, and they raise it again. `run` serves the other side's requests.
    """

    def __init__(
        self,
        connected: socket.socket,
        cipher: Cipher,
        completer: Completer[Any],
        events: ChannelEvents,
        patience: Patience,
    ) -> None:
        """Take ownership of ``connected``, which is non-blocking."""
        self._socket = InstantSocket(connected)
        self.cipher = cipher
        self._events = events
        self._served = Served(completer, events, self._gather)
        self._patience = patience
        self._frames = Frames()
        self._reads = Reads()
        self._gate = CreditGate()
        self._grant = CreditGrant()
        self._out: list[Data] = []
        self._gathered = 0
        self._unsent = memoryview(b"")
        self._later: deque[memoryview] = deque()
        """Requests that arrived while an access blocked."""
        self._depth = 0
        """Accesses that block now, one inside another."""
        self._work = trio.Event()
        """Requests wait, or gathered packets."""
        self._stuck = trio.Event()
        """The socket has no room."""
        self._end: DriverError | None = None
        self.received = 0
        """Bytes that have arrived."""
        self._sent = False

    # The handshake

    async def receive_control(self, kind: Control) -> bytes:
        """Return the body of the next frame, which must be of this kind."""
        while (frame := self._frames.next()) is None:
            await wait_readable(self._socket.fileno())
            self._receive()
        if frame[0] < CONTROL:
            raise ProtocolError(f"a packet instead of {kind.name}")
        arrived, body = parse_control(frame)
        if arrived is Control.DOWN:
            raise self._ended(TransportLost(_reason(body)))
        if arrived is not kind:
            raise ProtocolError(f"{arrived.name} instead of {kind.name}")
        return body

    def send_control(self, kind: Control, body: bytes = b"") -> None:
        """Send a frame."""
        self._gather([control(kind, body)])
        self.flush()

    def open(self) -> None:
        """Begin to take requests: grant the other side room for them."""
        self._gather([control(Control.CREDITS, body) for body in self._grant.updates()])
        self.flush()

    # Accesses

    def read_each(self, requester: int, ranges: Sequence[tuple[int, int]]) -> list[bytearray | Failure]:
        """Return the bytes of each range of the other side's memory or registers, an address and a size."""
        self._check()
        transfers = self._reads.begin(requester, list(ranges))
        self._issue()
        self._block(transfers)
        return [each.data if each.failure is None else each.failure for each in transfers]

    def configure(self, request: ConfigRead | ConfigWrite) -> bytes | Failure:
        """Return the answer to a configuration request: data for a read, nothing for a write."""
        self._check()
        begun = self._reads.configure(request)
        if begun is None:
            return Failure.TIMEOUT  # as many requests as there are tags are unanswered
        transfer, packet = begun
        self._wait_credits(units_of(packet), posted=False)
        self._gather([packet])
        self._block([transfer])
        return bytes(transfer.data) if transfer.failure is None else transfer.failure

    def write(self, requester: int, start: int, data: Data, *, at_once: bool) -> None:
        """Write bytes of the other side's memory or registers; gathered with others unless ``at_once``."""
        self._check()
        view = memoryview(data)
        for at, size in spans(start, len(data)):
            parts = emit_write(requester, at, view[at - start : at - start + size])
            self._wait_credits(units_of(parts[0]), posted=True)
            self._gather(parts)
        if at_once:
            self.flush()

    def message(self, code: MessageCode, function: int) -> None:
        """Send a message."""
        self._check()
        packet = emit(Message(header=Header(requester_of(function)), code=code))
        self._wait_credits(units_of(packet), posted=True)
        self._gather([packet])
        self.flush()

    def _issue(self) -> None:
        for packet in self._reads.issue():
            self._wait_credits(0, posted=False)
            self._gather([packet])

    def _wait_credits(self, data: int, *, posted: bool) -> None:
        """Take the credits of a packet with ``data`` units; block until the other side has granted them."""
        if not self._gate.take(data, posted=posted):
            self._block_until(lambda: self._gate.take(data, posted=posted))

    def _block(self, transfers: Sequence[Transfer]) -> None:
        self._block_until(lambda: all(each.done for each in transfers))
        self._check()

    def _block_until(self, done: Callable[[], bool]) -> None:
        """Send and receive until ``done``; this process does nothing else."""
        spent = 0.0
        self._depth += 1
        try:
            while True:
                self._check()
                self._serve_blocked()
                self.flush()
                if done():
                    break
                full = len(self._unsent) + self._gathered > BACKLOG_MAX
                events = (POLLOUT if self._unsent else 0) | (0 if full else POLLIN)
                took = self._patience.wait(lambda timeout: self._socket.wait(events, timeout), spent)  # noqa: B023
                if took is None:
                    raise ProtocolError("completion timeout: the other side takes too long to answer")
                spent += took
                if not full:
                    self._receive()
        except (ProtocolError, TransportLost) as exc:
            raise self._ended(exc) from None
        finally:
            self._depth -= 1
            self._work.set()  # for what was left

    def _serve_blocked(self) -> None:
        while (frame := self._frames.next()) is not None:
            if self._is_request(frame):
                bulk = parse_bulk(frame)
                if bulk is None or not self._events.at_once(bulk):
                    self._count(frame)
                    self._later.append(frame)
                    continue
            self._take(frame)

    # Serving the other side

    async def run(self) -> DriverError:
        """Serve the other side until the connection ends; return why."""
        async with trio.open_nursery() as nursery:
            for task in (self._receive_all, self._work_off, self._send_stuck, self._beat):
                nursery.start_soon(self._guard, task, nursery.cancel_scope)
        assert self._end is not None
        return self._end

    async def _guard(self, task: Callable[[], Any], scope: trio.CancelScope) -> None:
        try:
            await task()
        except (ProtocolError, TransportLost) as exc:
            self._ended(exc)
        scope.cancel()

    async def _receive_all(self) -> None:
        self._serve()  # what came with the handshake
        while True:
            if len(self._unsent) + self._gathered > BACKLOG_MAX:
                self._stuck.set()
                await wait_writable(self._socket.fileno())
                self.flush()
                continue
            await wait_readable(self._socket.fileno())
            self._check()
            self._receive()
            self._serve()

    async def _work_off(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            self._serve()

    async def _send_stuck(self) -> None:
        while True:
            await self._stuck.wait()
            self._stuck = trio.Event()
            while self._unsent:
                await wait_writable(self._socket.fileno())
                self.flush()

    async def _beat(self) -> None:
        silent, received = 0, self.received
        while True:
            await trio.sleep(BEAT)
            if not self._sent:
                self.send_control(Control.ALIVE)
            self._sent = False
            silent = 0 if self.received != received else silent + 1
            received = self.received
            if silent >= BEATS:
                raise ProtocolError(f"the other side is silent for {BEATS * BEAT:g} s")

    def _serve(self) -> None:
        """Handle all that has arrived, and send what is gathered."""
        while True:
            self._check()
            if self._later:
                frame = self._later.popleft()
                self._answer(frame)
            else:
                next_frame = self._frames.next()
                if next_frame is None:
                    break
                self._take(next_frame)
        self.flush()

    def _take(self, frame: memoryview) -> None:
        """Handle a frame."""
        if frame[0] >= CONTROL:
            self._control(frame)
        elif self._is_request(frame):
            self._count(frame)
            self._answer(frame)
        else:
            self._complete(frame)

    def _count(self, frame: memoryview) -> None:
        try:
            self._grant.receive(units_of(frame), posted=is_posted(frame))
        except ProtocolError:
            self._events.error(DataLinkError.OVERFLOW, bytes(frame[:16]))
            raise

    @staticmethod
    def _is_request(frame: memoryview) -> bool:
        return frame[0] < CONTROL and frame[0] & 0x1E != 0x0A

    def _control(self, frame: memoryview) -> None:
        kind, body = parse_control(frame)
        if kind is Control.CREDITS:
            try:
                self._gate.update(body)
            except ProtocolError:
                self._events.error(DataLinkError.FLOW_CONTROL, bytes(frame[:16]))
                raise
        elif kind is Control.DOWN:
            raise TransportLost(_reason(body))
        elif kind is not Control.ALIVE:
            raise ProtocolError(f"{kind.name} after the handshake")

    def _complete(self, frame: memoryview) -> None:
        bulk = parse_bulk(frame)
        try:
            if bulk is not None:
                self._reads.complete_data(bulk)
            else:
                packet = self._served.parse(frame)
                if isinstance(packet, Completion):
                    failure = self._reads.complete(packet)
                    if failure is Failure.POISONED:
                        self._events.error(TransactionError.POISONED, bytes(frame[:16]))
        except ProtocolError as exc:
            kind = str(exc).partition(":")[0]
            known = {TransactionError.UNEXPECTED_COMPLETION.value: TransactionError.UNEXPECTED_COMPLETION}
            self._events.error(known.get(kind, TransactionError.MALFORMED), bytes(frame[:16]))
            raise
        if self._reads.wanted:
            self._issue()

    def _answer(self, frame: memoryview) -> None:
        """Do a request, after which its room is free."""
        if not self._depth:
            self._events.arrived()
        self._served.do(frame)
        if self._grant.handle(units_of(frame), posted=is_posted(frame)):
            self._gather([control(Control.CREDITS, body) for body in self._grant.updates()])

    # Bytes

    def _gather(self, parts: Sequence[Data]) -> None:
        self._out += parts
        self._gathered += sum(map(len, parts))
        if self._gathered >= SEND_AT:
            self.flush()
        elif not self._depth:
            self._work.set()

    def flush(self) -> None:
        """Send what is gathered, as far as there is room."""
        if self._out:
            data = self.cipher.wrap(b"".join(self._out))
            self._out, self._gathered = [], 0
            self._unsent = memoryview(bytes(self._unsent) + data) if self._unsent else memoryview(data)
            self._sent = True
        while self._unsent and self._end is None:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                self._stuck.set()
                return
            except TransportLost as exc:
                raise self._ended(exc) from None

    def _receive(self) -> None:
        """Take the bytes that have arrived."""
        try:
            data, _ = self._socket.receive(RECEIVE_MAX)
        except BlockingIOError:
            return
        except Unusable as exc:
            raise ProtocolError(str(exc)) from None
        if not data:
            raise TransportLost("the other side hung up")
        self.received += len(data)
        self._frames.feed(self.cipher.unwrap(data))

    # The end

    @property
    def ended(self) -> DriverError | None:
        """Why the connection has ended; None while it has not."""
        return self._end

    def end(self, reason: str) -> None:
        """End the connection, and tell the other side why."""
        if self._end is None:
            try:
                self.send_control(Control.DOWN, reason.encode()[:200])
            except DriverError:
                pass
            self._ended(TransportLost(reason))

    def close(self) -> None:
        """Close the connection. Calling it twice is harmless."""
        self._ended(TransportLost("the connection is closed"))
        self._socket.close()

    def _check(self) -> None:
        if self._end is not None:
            raise self._end

    def _ended(self, cause: DriverError) -> DriverError:
        """Note why the connection ended, the first time, and end it."""
        if self._end is None:
            self._end = cause
            self._reads.lose()
            self._socket.shut_down()
        return self._end


def _reason(body: bytes) -> str:
    text = body.decode(errors="replace")
    return f"the other side ended it: {text if text.isprintable() else ascii(text)}"
