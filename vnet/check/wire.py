"""One vhost-user connection to a foreign back end: any bytes and file descriptors, all written down.

Numbers and names of messages are the protocol's (`drivers.transports.vhost_user.constants`); nothing is validated here.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Sequence
from enum import StrEnum

import attrs
import trio

from drivers.transports.vhost_user.constants import MAX_BODY, MAX_FDS, VERSION, FrontendRequest, HeaderFlag

__all__ = [
    "SHOWN", "Answer", "BadReply", "HungUp", "Journal", "PeerError", "Silence", "Wire", "emit", "name_of", "send_all",
    "wait_for_room",
]  # fmt: skip

HEADER = struct.Struct("<III")
SHOWN = 96
"""Most bytes of a message that a report shows."""


class PeerError(Exception):
    """The device did not behave as a back end does; the message says how."""


class HungUp(PeerError):
    """The device closed the connection."""


class Silence(PeerError):
    """The device did not answer in time."""


class BadReply(PeerError):
    """The device sent bytes that are no reply to the request."""


class Answer(StrEnum):
    """Reaction of a back end to a message."""

    DONE = "accepted it"
    REFUSED = "refused it"
    CLOSED = "closed the connection"


@attrs.define
class Journal:
    """The bytes that a case sends, in order: those that bring the device up apart from the rest."""

    setup: list[str] = attrs.field(factory=list)
    sent: list[str] = attrs.field(factory=list)
    in_setup: bool = False

    def note(self, text: str) -> None:
        (self.setup if self.in_setup else self.sent).append(text)

    def note_message(self, name: str, data: bytes, fds: Sequence[int]) -> None:
        """Note the first bytes of a message, and its number of file descriptors."""
        with_fds = f" with {len(fds)} file descriptors" if len(fds) > 1 else " with a file descriptor" if fds else ""
        self.note(f"{name}{with_fds}: {data[:SHOWN].hex()}{'…' if len(data) > SHOWN else ''}")


def name_of(request: int) -> str:
    """Return the name of a front end's request, or its number if it has none."""
    try:
        return FrontendRequest(request).name
    except ValueError:
        return f"request {request}"


def emit(request: int, body: bytes = b"", flags: int = VERSION, size: int | None = None) -> bytes:
    """Return the bytes of a message; ``size`` replaces the true size of the body in the header."""
    return HEADER.pack(request, flags, len(body) if size is None else size) + body


async def wait_for_room(connected: socket.socket, patience: float) -> None:
    """Wait until a socket takes bytes again. Raises Silence."""
    with trio.move_on_after(patience) as scope:
        await trio.lowlevel.wait_writable(connected)
    if scope.cancelled_caught:
        raise Silence(f"took no more bytes for {patience:g} s") from None


async def send_all(connected: socket.socket, data: bytes, fds: Sequence[int], patience: float) -> None:
    """Send all bytes, the file descriptors with the first one. Raises HungUp, Silence."""
    left = memoryview(data)
    while left:
        try:
            sent = socket.send_fds(connected, [left], list(fds), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            await wait_for_room(connected, patience)
            continue
        except OSError as exc:
            raise HungUp(f"closed the connection ({exc.strerror})") from None
        left, fds = left[sent:], ()
    await trio.lowlevel.checkpoint()


class Wire:
    """A connection. Every wait ends after ``patience`` seconds."""

    def __init__(self, connected: socket.socket, journal: Journal, patience: float) -> None:
        """Take ownership of ``connected``, which is non-blocking."""
        self._socket = connected
        self.journal = journal
        self.patience = patience
        self.acks = False
        """Whether REPLY_ACK is negotiated, so that every message may be acknowledged."""

    async def send(self, data: bytes, fds: Sequence[int] = (), *, note: str = "") -> None:
        """Send all bytes, the file descriptors with the first one. Raises HungUp, Silence."""
        self.journal.note_message(note or _label(data), data, fds)
        await send_all(self._socket, data, fds, self.patience)

    async def read(self, size: int, fds: list[int]) -> bytes:
        """Return exactly ``size`` bytes; add received file descriptors to ``fds``. Raises HungUp, Silence."""
        data = b""
        with trio.move_on_after(self.patience) as scope:
            while len(data) < size:
                try:
                    part, more, _, _ = socket.recv_fds(
                        self._socket, size - len(data), MAX_FDS, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                    )
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket)
                    continue
                except OSError as exc:
                    raise HungUp(f"closed the connection ({exc.strerror})") from None
                if not part:
                    raise HungUp("closed the connection")
                data += part
                fds += more
        if scope.cancelled_caught:
            raise Silence(f"did not answer within {self.patience:g} s")
        return data

    async def reply(self, request: int, fds: list[int] | None = None) -> bytes:
        """Return the body of the reply; add passed descriptors to ``fds``, else close them. Raises PeerError."""
        passed: list[int] = []
        try:
            header = await self.read(HEADER.size, passed)
            kind, flags, size = HEADER.unpack(header)
            if size > MAX_BODY:
                raise BadReply(f"replied to {name_of(request)} with a body of {size} bytes: {header.hex()}")
            body = await self.read(size, passed) if size else b""
            if kind != request or flags & ~HeaderFlag.NEED_REPLY != VERSION | HeaderFlag.REPLY:
                raise BadReply(f"replied to {name_of(request)} with {(header + body)[:SHOWN].hex()}")
        except BaseException:
            _close(passed)
            raise
        if fds is None:
            _close(passed)
        else:
            fds += passed
        return body

    async def ask(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a request that has a reply; return the reply's body. Raises PeerError."""
        await self.send(emit(request, body), fds)
        try:
            return await self.reply(request)
        except (HungUp, Silence) as exc:
            raise type(exc)(f"{exc} after {name_of(request)}") from None

    async def ask_number(self, request: int, body: bytes = b"") -> int:
        """Return a reply of 8 bytes as a number. Raises PeerError."""
        reply = await self.ask(request, body)
        if len(reply) != 8:
            raise BadReply(f"replied to {name_of(request)} with {len(reply)} bytes instead of 8: {reply[:SHOWN].hex()}")
        return int.from_bytes(reply, "little")

    async def tell(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> Answer:
        """Send a request without a reply of its own; return the reaction.

        Without REPLY_ACK a back end can only close the connection to refuse. Raises Silence, BadReply.
        """
        try:
            if self.acks:
                await self.send(emit(request, body, VERSION | HeaderFlag.NEED_REPLY), fds)
                ack = await self.reply(request)
                return Answer.REFUSED if any(ack) else Answer.DONE
            await self.send(emit(request, body), fds)
            return await self.after()
        except HungUp:
            return Answer.CLOSED
        except Silence as exc:
            raise Silence(f"{exc} after {name_of(request)}") from None

    async def after(self) -> Answer:
        """Return whether the connection goes on: the back end must answer GET_FEATURES. Raises Silence, BadReply."""
        try:
            await self.ask_number(FrontendRequest.GET_FEATURES)
        except HungUp:
            return Answer.CLOSED
        return Answer.DONE

    async def must(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that every back end must accept here. Raises PeerError."""
        answer = await self.tell(request, body, fds)
        if answer is not Answer.DONE:
            raise (HungUp if answer is Answer.CLOSED else PeerError)(f"{answer.value} after {name_of(request)}")

    def hung_up(self) -> bool:
        """Return whether the device closed the connection, without reading what it sent before."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def replace(self, connected: socket.socket) -> None:
        """Go on with another connection, and close the former one."""
        self._socket.close()
        self._socket = connected
        self.acks = False

    def close(self) -> None:
        self._socket.close()


def _label(data: bytes) -> str:
    return name_of(int.from_bytes(data[:4], "little")) if len(data) >= HEADER.size else f"{len(data)} bytes"


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
