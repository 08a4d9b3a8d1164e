"""A front end's connection to a back end: what is asked and answered, one at a time, and what comes unasked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from drivers.contracts.ipc import FdSocket, Handle
from drivers.errors import DriverError, ProbeError, TransportLost
from drivers.flow.pump import Signal
from drivers.transports.vhost_user.constants import BackendRequest, FrontendRequest
from drivers.transports.vhost_user.messages import (
    BACKEND_MESSAGES,
    FRONTEND_MESSAGES,
    Assembler,
    UserMessage,
    ack,
    emit,
    parse,
    parse_reply,
)
from drivers.transports.vhost_user.payloads import U64, MessageRefused, Payload, ProtocolError

__all__ = ["REPLY_TIMEOUT", "BackEndConnection", "listen"]

REPLY_TIMEOUT = 5.0
"""Seconds that a back end may take to hear a message and to answer it."""


class BackEndConnection:
    """Whatever is wrong with what comes in, the end is the same: the connection is closed, and `reason` says why."""

    def __init__(self, name: str, socket: FdSocket) -> None:
        """Owns the socket from now on."""
        self.name = name
        self.reason = ""
        """Why it ended; empty while it lasts."""
        self.acknowledged = False
        """Whether REPLY_ACK was agreed on: then every message is answered."""
        self._socket = socket
        self._one = trio.Lock()
        self._asked: FrontendRequest | None = None
        self._answer: Payload | None = None
        self._told = Signal()
        self._deadline = float("inf")
        self._waiting: trio.CancelScope | None = None

    def hurry(self, seconds: float) -> None:
        """Hang up unless the back end has answered everything within so many seconds from now on."""
        self._deadline = min(self._deadline, trio.current_time() + seconds)
        if self._waiting is not None:
            self._waiting.deadline = min(self._waiting.deadline, self._deadline)

    async def run(self, ended: Callable[[], None]) -> None:
        """Take what comes in, until the connection ends, and say so."""
        assembler = Assembler(FRONTEND_MESSAGES, replies=True)
        reason = "it was closed"
        try:
            while True:
                message = await _receive(self._socket, assembler)
                if message is None:
                    reason = "the back end hung up"
                    return
                self._take(message)
        except DriverError as exc:
            reason = str(exc)
        finally:
            assembler.close()
            self.end(reason)
            ended()

    async def overhear(self, channel: FdSocket, changed: Callable[[], None], refused: Callable[[str], None]) -> None:
        """Serve what the back end asks on a ``channel``, which is closed at the end (see `listen`)."""
        try:
            await listen(channel, changed, refused)
        except DriverError as exc:
            self.end(f"on the back end's channel: {exc}")
        finally:
            channel.close()

    def _take(self, message: UserMessage) -> None:
        """Raises ProtocolError for what nobody asked, or no answer can be."""
        try:
            if self._asked is None:
                raise ProtocolError(f"an answer to message {message.request}, which nobody asked")
            self._answer = parse_reply(message, self._asked, FRONTEND_MESSAGES)
        finally:
            message.close()
        self._asked = None
        self._told.set()

    def end(self, reason: str) -> None:
        """Hang up; who waits for an answer is told. Only the first reason counts."""
        if not self.reason:
            self.reason = reason
            self._socket.close()
            self._told.set()

    def broken(self, reason: str) -> TransportLost:
        """Hang up, since an answer says what can't be; what is to be raised."""
        self.end(reason)
        return TransportLost(f"{self.name}: {self.reason}")

    async def ask(
        self, request: FrontendRequest, payload: Payload | None = None, *, patience: float = REPLY_TIMEOUT
    ) -> Payload:
        """What is answered always, within ``patience`` seconds. Raises TransportLost; then the connection has ended."""
        answer = await self._exchange(request, payload, (), answered=True, need_reply=False, patience=patience)
        assert answer is not None
        return answer

    async def number(self, request: FrontendRequest) -> int:
        """The same for an answer that is one number."""
        answer = await self.ask(request)
        assert isinstance(answer, U64)
        return answer.value

    async def tell(
        self, request: FrontendRequest, payload: Payload | None = None, handles: Sequence[Handle] = ()
    ) -> None:
        """What is acknowledged at most. Raises ProbeError where the back end refuses it, else like `ask`."""
        answer = await self._exchange(request, payload, handles, self.acknowledged, self.acknowledged)
        if isinstance(answer, U64) and answer.value:
            raise ProbeError(f"{self.name}: the back end refused {request.name} ({answer.value:#x})")

    async def _exchange(
        self,
        request: FrontendRequest,
        payload: Payload | None,
        handles: Sequence[Handle],
        answered: bool,
        need_reply: bool,
        patience: float = REPLY_TIMEOUT,
    ) -> Payload | None:
        async with self._one:
            # A task that is cancelled must not leave half a message behind, nor an answer for the next one to take.
            began = trio.current_time()
            with trio.CancelScope(deadline=min(began + patience, self._deadline), shield=True) as self._waiting:
                self._check()
                self._asked, self._answer = request if answered else None, None
                try:
                    await self._socket.send(emit(request, payload, need_reply=need_reply), handles)
                except TransportLost as exc:
                    self.end(f"{request.name} could not be sent: {exc}")
                while answered and self._answer is None:
                    self._check()
                    await self._told.wait()
                self._check()
                return self._answer
            self.end(f"no answer to {request.name} within {trio.current_time() - began:.3g} s")
            self._check()
            raise AssertionError

    def _check(self) -> None:
        if self.reason:
            raise TransportLost(f"{self.name}: {self.reason}")


async def listen(
    socket: FdSocket, changed: Callable[[], None], refused: Callable[[str], None] = lambda why: None
) -> None:
    """Serve what a back end sends of its own accord, until it hangs up. Raises ProtocolError, TransportLost.

    ``changed`` is called when its configuration changed, ``refused`` with the reason of a refusal that is acknowledged.
    """
    assembler = Assembler(BACKEND_MESSAGES)
    try:
        while (message := await _receive(socket, assembler)) is not None:
            good = True
            try:
                parse(message, BACKEND_MESSAGES)
                if message.request != BackendRequest.CONFIG_CHANGE_MSG:
                    raise MessageRefused(f"message {message.request}: this was not agreed on")
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
                    raise ProtocolError(f"the back end does not hear the answer to message {message.request}")
    finally:
        assembler.close()


async def _receive(socket: FdSocket, assembler: Assembler) -> UserMessage | None:
    """The next message; None at an end between two. Raises ProtocolError, TransportLost, Unusable."""
    message = None
    while message is None:
        with trio.move_on_after(REPLY_TIMEOUT if assembler.begun else float("inf")) as scope:
            data, handles = await socket.receive(assembler.wanted)
        if scope.cancelled_caught:
            raise ProtocolError(f"the rest of a message did not come within {REPLY_TIMEOUT:g} s")
        if not data:
            for handle in handles:
                handle.close()
            if assembler.begun:
                raise ProtocolError("the back end hung up in the middle of a message")
            return None
        message = assembler.feed(data, handles)
    return message
