"""The session of a client with a server, without I/O: its requests, one at a time, and the replies to them."""

from __future__ import annotations

import attrs

from drivers.carriers.framing import ProtocolError
from drivers.contracts.ipc import Handle
from vnet.vfio_user.constants import Command, HeaderFlag
from vnet.vfio_user.messages import Message, command_name, emit, parse_reply
from vnet.vfio_user.payloads import Payload

__all__ = ["ClientSession", "Reply"]


@attrs.frozen(eq=False)
class Reply:
    """A checked reply."""

    payload: Payload
    handles: list[Handle]
    """Received file descriptors, which the receiver of the reply closes."""


class ClientSession:
    """Numbers requests and checks that each reply belongs to the last of them."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: tuple[int, Command] | None = None
        self.unconfirmed = False
        """Whether a request without a reply was sent after the last confirmed request."""

    def request(self, command: Command, payload: Payload | None = None) -> bytes:
        """Return the bytes of a request; its reply must be taken before the next one."""
        assert self._waiting is None, "one request at a time"
        self._waiting = self._next(), command
        return emit(self._number, command, payload)

    def post(self, command: Command, payload: Payload | None = None) -> bytes:
        """Return the bytes of a request without a reply."""
        self.unconfirmed = True
        return emit(self._next(), command, payload, HeaderFlag.NO_REPLY)

    def take(self, message: Message) -> Reply:
        """Return the reply to the waiting request; the message loses its handles.

        Raises Refused if the server refused the request, ProtocolError for any other message.
        """
        waiting, name = self._waiting, command_name(message.command)
        if waiting is None:
            raise ProtocolError(f"{name}: a reply without a request")
        number, command = waiting
        if (message.number, message.command) != (number, command):
            raise ProtocolError(f"{name}: reply {message.number}, to request {number}, {command.name}")
        self._waiting = None
        self.unconfirmed = False  # the server handles requests in their order
        payload = parse_reply(message)
        handles, message.handles[:] = [*message.handles], []
        return Reply(payload, handles)

    def _next(self) -> int:
        self._number = (self._number + 1) & 0xFFFF
        return self._number
