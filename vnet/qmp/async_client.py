"""The client of a control socket for Trio: conversations, one of which is kept open for looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from vnet.errors import ControlError
from vnet.qmp import codec
from vnet.qmp.client import CHUNK, PATIENCE, REPLY_MAX, expect
from vnet.qmp.codec import NEGOTIATE, LineFramer, QmpError, TooLong
from vnet.system.state import socket_path
from vnet.views.parse import from_answer

__all__ = ["PATIENCE", "Control", "Conversation", "Refusal"]

T = TypeVar("T")


class Refusal(ControlError):
    """The system refused a command. The connection is still usable."""


class Conversation:
    """A connection to a control socket, in which commands take turns."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._framer = LineFramer(REPLY_MAX)

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, timeout: float = PATIENCE
    ) -> object:
        """Return the result of a command, which may take ``timeout`` seconds. Raises Refusal, ControlError."""
        try:
            with trio.fail_after(timeout):
                await self._stream.send_all(codec.emit({"execute": command, "arguments": dict(arguments or {})}))
                reply = await self.receive()
        except trio.TooSlowError:
            raise ControlError(f"the system does not answer within {timeout:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ControlError("the system closed the connection") from None
        try:
            return expect("return", reply)
        except ControlError as exc:
            raise Refusal(str(exc)) from None

    async def receive(self) -> dict[str, object]:
        """Wait for the next message: a reply, or an event if some were chosen. Raises ControlError at the end."""
        data = b""
        try:
            while (message := next(self._framer.feed(data), None)) is None:
                data = bytes(await self._stream.receive_some(CHUNK))
                if not data:
                    raise ControlError("the system closed the connection")
            return codec.parse(message)
        except (QmpError, TooLong, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ControlError(f"unexpected data from the system: {exc}") from None

    async def aclose(self) -> None:
        """Close the connection."""
        await trio.aclose_forcefully(self._stream)


class Control:
    """The control socket of the system ``name``, which may end and start again.

    ``dial`` connects to it and raises OSError; default: to the socket of this user's system.
    """

    def __init__(self, name: str, dial: Callable[[], Awaitable[trio.abc.Stream]] | None = None) -> None:
        self.name = name
        self._dial = dial or partial(_dial, name)
        self._turn = trio.Lock()
        self._kept: Conversation | None = None

    @asynccontextmanager
    async def converse(self) -> AsyncIterator[Conversation]:
        """Open a conversation. Raises ControlError."""
        conversation = await self._open()
        try:
            yield conversation
        finally:
            await conversation.aclose()

    async def act(self, command: str, arguments: Mapping[str, object], timeout: float = PATIENCE) -> object:
        """Return the result of a command in a conversation of its own, so that looks do not wait for it.

        It may take ``timeout`` seconds. Raises Refusal, ControlError.
        """
        async with self.converse() as conversation:
            return await conversation.execute(command, arguments, timeout)

    async def look(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Return the result of a query. The connection is kept. Raises Refusal, ControlError."""
        async with self._turn:
            if self._kept is not None:
                try:
                    return await self._execute(self._kept, command, arguments)
                except Refusal:
                    raise
                except ControlError:
                    pass  # that system has ended; there may be a new one
            self._kept = await self._open()
            return await self._execute(self._kept, command, arguments)

    async def view(self, record: type[T], command: str, arguments: Mapping[str, object] | None = None) -> T:
        """Return the result of a query as a view, like `look`. Raises Refusal, ControlError."""
        return from_answer(self.name, record, await self.look(command, arguments))

    async def aclose(self) -> None:
        """Close the kept connection."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.aclose()

    async def _execute(
        self, conversation: Conversation, command: str, arguments: Mapping[str, object] | None
    ) -> object:
        """Execute a query. Close the kept connection unless its reply was read to the end."""
        try:
            return await conversation.execute(command, arguments)
        except Refusal:
            raise
        except BaseException:
            await self.aclose()
            raise

    async def _open(self) -> Conversation:
        """Connect and negotiate. Raises ControlError."""
        try:
            stream = await self._dial()
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(f"{self.name} is not running; try: vnet up --name {self.name}") from None
        except OSError as exc:
            raise ControlError(f"{self.name}: {exc.strerror or exc}") from None
        conversation = Conversation(stream)
        opened = False
        try:
            with trio.fail_after(PATIENCE):
                expect("QMP", await conversation.receive())
            await conversation.execute(NEGOTIATE)
            opened = True
            return conversation
        except trio.TooSlowError:
            raise ControlError(f"{self.name} does not answer within {PATIENCE:g} s") from None
        finally:
            if not opened:
                await conversation.aclose()


async def _dial(name: str) -> trio.abc.Stream:
    return await trio.open_unix_socket(str(socket_path(name)))
