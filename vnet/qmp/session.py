"""The conversation with one client: greeting, negotiation, then commands, answered one by one, and events."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import trio

from drivers.contracts.events import ControlCommanded, Source
from vnet.configfs.service import Configfs
from vnet.linux.privileges.confinement import name_sandbox
from vnet.qmp import codec
from vnet.qmp.codec import NEGOTIATE, Framer, QmpError, TooLong
from vnet.qmp.commands import Context, Takeover, execute, tree_of, version
from vnet.qmp.event_queue import EventQueue
from vnet.qmp.events import Shutdown
from vnet.qmp.qapi import to_wire
from vnet.system.world import World

__all__ = ["MESSAGE_MAX", "Session", "reject"]

MESSAGE_MAX = 1 << 20
"""Bytes of the longest command."""
CHUNK = 16 << 10
"""Bytes of a read from a client."""
PATIENCE = 30.0
"""Seconds between the first and the last byte of a command."""
FAREWELL = 0.2
"""Seconds that a client may take to read the last events before the system ends."""
LINGER = 1.0
"""Seconds that a client may take to read the error before we close the connection."""


class Session:
    """The conversation with one client. Sets ``end`` after the reply to the command quit."""

    def __init__(
        self, stream: trio.abc.Stream, world: World, end: trio.Event, tree: Callable[[], Configfs] | None = None
    ) -> None:
        """``tree`` returns the management tree, which all clients of the system share."""
        self._stream = stream
        self._world = world
        self._events = EventQueue(world.events)
        self._context = Context(world, self._events.choose, self._take_over, tree or tree_of(world))
        self._takeover: Takeover | None = None
        self._end = end
        self._negotiated = False
        self._sending = trio.Lock()
        self._last_send = trio.CancelScope()
        self._is_cut = False  # whether the last message was sent in part

    async def run(self) -> None:
        """Serve the client until it disconnects, or does not keep to the limits."""
        gone, error = False, None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._limit_last_send)
                nursery.start_soon(self._send_events)
                error = await self._converse_to_the_end()
                nursery.cancel_scope.cancel()
            gone = True
        finally:
            self._events.close()
            if not gone:
                await self._say_farewell()
        if error is not None and not self._is_cut:
            await reject(self._stream, error)

    async def _converse_to_the_end(self) -> QmpError | None:
        """Return the reason why the client is refused; None if it disconnected."""
        try:
            await self._converse()
        except (TooLong, trio.TooSlowError) as exc:
            return QmpError(str(exc) or f"a message must be complete within {PATIENCE:g} s")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return None

    async def _converse(self) -> None:
        framer, deadline = Framer(MESSAGE_MAX), math.inf
        await self._send({"QMP": {"version": to_wire(version()), "capabilities": []}})
        while data := await self._receive(deadline):
            for message in framer.feed(data):
                deadline = math.inf
                reply, executed = await self._answer(message)
                await self._send(reply)
                if executed == "quit":
                    self._end.set()
                if self._takeover is not None:
                    async with self._sending:
                        self._is_cut = True  # no message may follow
                        await self._takeover(self._stream)
                    return
            deadline = min(deadline, trio.current_time() + PATIENCE) if framer.partial else math.inf

    def _take_over(self, takeover: Takeover) -> None:
        self._takeover = takeover

    async def _receive(self, deadline: float) -> bytes:
        """Return the next bytes. Raises trio.TooSlowError at the deadline."""
        with trio.fail_at(deadline):
            return bytes(await self._stream.receive_some(CHUNK))

    async def _send(self, message: Mapping[str, object]) -> None:
        async with self._sending:
            await self._put([message])

    async def _put(self, messages: Sequence[Mapping[str, object]], within: float = math.inf) -> None:
        """Send messages whole, within so many seconds, despite a cancellation. The caller holds `_sending`."""
        self._is_cut = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + within) as self._last_send:
            await self._stream.send_all(b"".join(map(codec.emit, messages)))
            self._is_cut = False

    async def _limit_last_send(self) -> None:
        """Give the messages on their way a deadline when the conversation ends."""
        try:
            await trio.sleep_forever()
        finally:
            self._last_send.deadline = trio.current_time() + FAREWELL

    async def _send_events(self) -> None:
        """Send the chosen events until cancelled, or until the client is gone."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await self._events.wait()
                async with self._sending:
                    await self._put(self._events.take())

    async def _say_farewell(self) -> None:
        """Send the last events to a client that reads, because the system ends."""
        shutdown = Shutdown(guest=False, reason="host-qmp-quit" if self._end.is_set() else "host-signal")
        last = [] if self._is_cut else self._events.farewell(shutdown)
        if last:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._put(last, FAREWELL)

    async def _answer(self, message: bytes) -> tuple[dict[str, object], str]:
        """Execute the command in a message; return the reply, and the name of the command if it succeeded, else ""."""
        about: dict[str, object] = {}
        command = ""
        try:
            raw = codec.parse(message)
            about = {"id": raw["id"]} if "id" in raw else {}
            request = codec.request(raw)
            command = request.execute
            self._check_turn(command)
            returned = await execute(self._context, command, request.arguments)
        except QmpError as exc:
            refusal = exc
        except OSError as exc:  # the kernel refused the command: the server goes on
            why = exc.strerror or str(exc)
            refusal = QmpError(name_sandbox(f"{exc.filename}: {why}" if exc.filename else why))
        else:
            self._negotiated = True
            self._report(command)
            return {"return": returned, **about}, command
        self._report(command, str(refusal))
        return {**refusal.as_dict(), **about}, ""

    def _check_turn(self, command: str) -> None:
        """Raise QmpError unless the negotiation comes first, and once."""
        if command == NEGOTIATE and self._negotiated:
            raise QmpError("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
        if command != NEGOTIATE and not self._negotiated:
            raise QmpError(f"Expecting capabilities negotiation with '{NEGOTIATE}'", "CommandNotFound")

    def _report(self, command: str, error: str = "") -> None:
        if (emit := self._world.events.control) is not None:
            emit(ControlCommanded(trio.current_time(), Source(), command, error))


async def reject(stream: trio.abc.Stream, error: QmpError) -> None:
    """Send the error, and read the client's data to its end, because unread data would discard our error."""
    with trio.move_on_after(LINGER):
        try:
            await stream.send_all(codec.emit(error.as_dict()))
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while await stream.receive_some(CHUNK):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
