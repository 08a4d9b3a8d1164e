"""A front end's connection to a back end: one request at a time, and the back end's own requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from drivers.carriers.framing import ProtocolError, receive_message
from drivers.contracts.events import SILENT, Reporter
from drivers.contracts.ipc import FdSocket, Handle
from drivers.errors import DriverError, ProbeError, TransportLost
from drivers.flow.pump import Signal
from drivers.transports.vhost_user.constants import BackendRequest, FrontendRequest
from drivers.transports.vhost_user.messages import (
    BACKEND_MESSAGES,
    FRONTEND_MESSAGES,
    HEADER_SIZE,
    Assembler,
    UserMessage,
    ack,
    emit,
    parse,
    parse_reply,
    request_name,
)
from drivers.transports.vhost_user.payloads import U64, MessageRefused, Payload

__all__ = ["REPLY_TIMEOUT", "BackEndConnection", "serve_backend_requests"]

P = TypeVar("P", bound=Payload)
PEER = "back end"
REPLY_TIMEOUT = 5.0
"""Seconds that a back end may take to receive a message and to reply."""


class BackEndConnection:
    """A connection to a back end. Any invalid input closes it; `reason` says why."""

    def __init__(self, name: str, socket: FdSocket, reporter: Reporter = SILENT) -> None:
        """Take over the socket. ``reporter`` takes an event per message."""
        self.name = name
        self.reason = ""
        """Why the connection ended; empty while it is open."""
        self.acknowledged = False
        """Whether REPLY_ACK was negotiated: then the back end acknowledges every message."""
        self._socket = socket
        self._reporter = reporter
        self._exchange_lock = trio.Lock()
        self._request: FrontendRequest | None = None
        self._reply: Payload | None = None
        self._wakeup = Signal()
        self._deadline = float("inf")
        self._exchange_scope: trio.CancelScope | None = None

    def limit_wait(self, seconds: float) -> None:
        """Close the connection if the back end has not replied to all requests within ``seconds`` from now."""
        self._deadline = min(self._deadline, trio.current_time() + seconds)
        if self._exchange_scope is not None:
            self._exchange_scope.deadline = min(self._exchange_scope.deadline, self._deadline)

    async def run(self, on_end: Callable[[], None]) -> None:
        """Receive replies until the connection ends, then call ``on_end``."""
        assembler = Assembler(FRONTEND_MESSAGES, replies=True)
        reason = "the connection was closed"
        try:
            while True:
                message = await receive_message(self._socket, assembler, REPLY_TIMEOUT, PEER, first=False)
                if message is None:
                    reason = "the back end disconnected"
                    return
                self._take(message)
        except DriverError as exc:
            reason = str(exc)
        finally:
            assembler.close()
            self.end(reason)
            on_end()

    async def serve_channel(
        self, channel: FdSocket, changed: Callable[[], None], refused: Callable[[str], None]
    ) -> None:
        """Serve the back end's requests on ``channel`` (see `serve_backend_requests`), then close it."""
        try:
            await serve_backend_requests(channel, changed, refused)
        except DriverError as exc:
            self.end(f"on the back end's channel: {exc}")
        finally:
            channel.close()

    def _take(self, message: UserMessage) -> None:
        """Accept a reply. Raises ProtocolError if it is unexpected or invalid."""
        try:
            self._reporter.message(False, request_name(message.request), len(message.body), len(message.handles))
            if self._request is None:
                raise ProtocolError(f"an unexpected reply to message {message.request}")
            self._reply = parse_reply(message, self._request, FRONTEND_MESSAGES)
        finally:
            message.close()
        self._request = None
        self._wakeup.set()

    def end(self, reason: str) -> None:
        """Close the connection and wake the task that waits for a reply. The first reason counts."""
        if not self.reason:
            self.reason = reason
            self._socket.close()
            self._wakeup.set()

    def invalid_reply(self, reason: str) -> TransportLost:
        """Close the connection because of an invalid reply. Returns the exception to raise."""
        self.end(reason)
        return TransportLost(f"{self.name}: {self.reason}")

    async def query(
        self,
        request: FrontendRequest,
        kind: type[P],
        payload: Payload | None = None,
        *,
        patience: float = REPLY_TIMEOUT,
    ) -> P:
        """Send a request and return its reply, a ``kind``, within ``patience`` seconds. Raises TransportLost once
        closed.
        """
        answer = await self._exchange(request, payload, (), has_reply=True, need_reply=False, patience=patience)
        if not isinstance(answer, kind):
            raise self.invalid_reply(f"invalid reply to {request.name}: {answer}")
        return answer

    async def query_u64(self, request: FrontendRequest) -> int:
        """Send a request and return its reply, a number. Raises as `query`."""
        return (await self.query(request, U64)).value

    async def send(
        self, request: FrontendRequest, payload: Payload | None = None, handles: Sequence[Handle] = ()
    ) -> None:
        """Send a message without a reply and wait for the acknowledgement, if negotiated. Raises ProbeError if the back
        end refuses it, else as `query`.
        """
        answer = await self._exchange(request, payload, handles, self.acknowledged, self.acknowledged)
        if isinstance(answer, U64) and answer.value:
            raise ProbeError(f"{self.name}: the back end refused {request.name} ({answer.value:#x})")

    async def _exchange(
        self,
        request: FrontendRequest,
        payload: Payload | None,
        handles: Sequence[Handle],
        has_reply: bool,
        need_reply: bool,
        patience: float = REPLY_TIMEOUT,
    ) -> Payload | None:
        async with self._exchange_lock:
            # Shielded: cancellation must not leave half a message, nor a reply for the next request.
            start = trio.current_time()
            with trio.CancelScope(deadline=min(start + patience, self._deadline), shield=True) as self._exchange_scope:
                self._check()
                self._request, self._reply = request if has_reply else None, None
                try:
                    data = emit(request, payload, need_reply=need_reply)
                    await self._socket.send(data, handles)
                    self._reporter.message(True, request.name, len(data) - HEADER_SIZE, len(handles))
                except TransportLost as exc:
                    self.end(f"{request.name} could not be sent: {exc}")
                while has_reply and self._reply is None:
                    self._check()
                    await self._wakeup.wait()
                self._check()
                return self._reply
            self.end(f"no reply to {request.name} within {trio.current_time() - start:.3g} s")
            self._check()
            raise AssertionError

    def _check(self) -> None:
        if self.reason:
            raise TransportLost(f"{self.name}: {self.reason}")


async def serve_backend_requests(
    socket: FdSocket, changed: Callable[[], None], refused: Callable[[str], None] = lambda why: None
) -> None:
    """Serve a back end's requests until it disconnects. Raises ProtocolError, TransportLost.

    Calls ``changed`` on a configuration change, and ``refused`` with the reason if it refuses a message that needs a
    reply.
    """
    assembler = Assembler(BACKEND_MESSAGES)
    try:
        while (message := await receive_message(socket, assembler, REPLY_TIMEOUT, PEER, first=False)) is not None:
            good = True
            try:
                parse(message, BACKEND_MESSAGES)
                if message.request != BackendRequest.CONFIG_CHANGE_MSG:
                    raise MessageRefused(f"message {message.request}: not negotiated")
                changed()
            except MessageRefused as exc:
                if not message.need_reply:
                    raise
                refused(str(exc))
                good = False
            finally:
                message.close()
            if message.need_reply:
                with trio.move_on_after(REPLY_TIMEOUT) as scope:
                    await socket.send(ack(message.request, good=good))
                if scope.cancelled_caught:
                    raise ProtocolError(f"the back end does not receive the reply to message {message.request}")
    finally:
        assembler.close()
