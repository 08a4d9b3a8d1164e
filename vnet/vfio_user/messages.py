"""The messages of vfio-user, without I/O: their types, their framing in a stream, and their file descriptors."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from enum import Enum

import attrs

from drivers.carriers.framing import FrameAssembler, ProtocolError
from drivers.contracts.ipc import Handle
from vnet.vfio_user.accesses import DmaAccess, DmaData, RegionRead, RegionWrite, RegionWrites
from vnet.vfio_user.constants import FDS_MAX, MESSAGE_MAX, Command, HeaderFlag
from vnet.vfio_user.payloads import (
    DeviceInfo,
    DmaMap,
    DmaUnmap,
    Empty,
    IrqInfo,
    Payload,
    Refused,
    RegionInfo,
    RegionIoFds,
    RegionIoFdsReply,
    SetIrqs,
    Version,
)

__all__ = [
    "HEADER_SIZE",
    "LEGAL",
    "MESSAGES",
    "POSTED_SIZE",
    "SERVER_MESSAGES",
    "Assembler",
    "Message",
    "MessageType",
    "SessionState",
    "command_name",
    "declared_size",
    "emit",
    "error",
    "parse",
    "parse_reply",
    "parse_posted",
    "parse_server_command",
    "reply",
]

_REPLY, _NO_REPLY, _ERROR = int(HeaderFlag.REPLY), int(HeaderFlag.NO_REPLY), int(HeaderFlag.ERROR)
"""As plain numbers, whose operations are quicker: they are for every message."""
_HEADER = struct.Struct("<HHIII")
HEADER_SIZE = _HEADER.size
_POSTED = struct.Struct("<HHIIIQIIH")
POSTED_SIZE = _POSTED.size
"""Bytes of a posted write of two bytes: a doorbell."""


@attrs.frozen
class MessageType:
    """A message type."""

    body: type[Payload] = Empty
    reply: type[Payload] = Empty
    """Body of the reply."""
    fds: int = 0
    """Most file descriptors."""
    reply_fds: int = 0
    """Most file descriptors of the reply."""


C, T = Command, MessageType
MESSAGES: Mapping[int, MessageType] = {
    C.VERSION: T(Version, Version),
    C.DMA_MAP: T(DmaMap, fds=1),
    C.DMA_UNMAP: T(DmaUnmap, DmaUnmap),
    C.DEVICE_GET_INFO: T(DeviceInfo, DeviceInfo),
    C.DEVICE_GET_REGION_INFO: T(RegionInfo, RegionInfo, reply_fds=FDS_MAX),
    C.DEVICE_GET_REGION_IO_FDS: T(RegionIoFds, RegionIoFdsReply, reply_fds=FDS_MAX),
    C.DEVICE_GET_IRQ_INFO: T(IrqInfo, IrqInfo),
    C.DEVICE_SET_IRQS: T(SetIrqs, fds=FDS_MAX),
    C.REGION_READ: T(RegionRead, RegionWrite),
    C.REGION_WRITE: T(RegionWrite, RegionRead),
    C.DEVICE_RESET: T(),
    C.REGION_WRITE_MULTI: T(RegionWrites),
}
"""Supported commands of the client. Migration is unsupported."""
SERVER_MESSAGES: Mapping[int, MessageType] = {
    C.DMA_READ: T(DmaAccess, DmaData),
    C.DMA_WRITE: T(DmaData, DmaAccess),
}
"""Commands of the server."""


class SessionState(Enum):
    """States of a session."""

    NEW = "without a version"
    READY = "ready"


LEGAL: Mapping[SessionState, frozenset[Command]] = {
    SessionState.NEW: frozenset({C.VERSION}),
    SessionState.READY: frozenset(C(number) for number in MESSAGES) - {C.VERSION},
}
"""Commands by state. The protocol prescribes no other order."""


def command_name(command: int) -> str:
    """Return the name of a command, or its number if it is unknown."""
    return Command(command).name if command in MESSAGES or command in SERVER_MESSAGES else str(command)


@attrs.frozen(eq=False)
class Message:
    """A received command or reply; only the size of its body is bounded."""

    number: int
    command: int
    flags: int
    body: bytes
    handles: list[Handle]
    """Received file descriptors. A user removes a handle from the list; `close` closes the rest."""
    error: int = 0
    """Errno of a reply with the error flag."""

    @property
    def need_reply(self) -> bool:
        return not self.flags & _NO_REPLY

    @property
    def is_reply(self) -> bool:
        return bool(self.flags & _REPLY)

    def close(self) -> None:
        while self.handles:
            self.handles.pop().close()


COMMAND_FLAGS = frozenset({0, int(HeaderFlag.NO_REPLY)})
REPLY_FLAGS = frozenset({int(HeaderFlag.REPLY), int(HeaderFlag.REPLY | HeaderFlag.ERROR)})


class Assembler(FrameAssembler[Message]):
    """Splits a peer's byte stream into messages: commands of a client, or replies and commands of a server."""

    def __init__(self, *, server: bool = False) -> None:
        """``server``: whether the peer is a server."""
        super().__init__(HEADER_SIZE, FDS_MAX)
        self._flags = COMMAND_FLAGS | REPLY_FLAGS if server else COMMAND_FLAGS

    def check_header(self, header: bytes, fds: int) -> int:
        """Check a header; return the bytes of the body. Unknown commands are received, in order to refuse them."""
        _, command, size, flags, _ = _HEADER.unpack(header)
        if not HEADER_SIZE <= size <= MESSAGE_MAX:
            raise ProtocolError(f"{command_name(command)}: a message of {size} bytes")
        if flags not in self._flags:
            raise ProtocolError(f"{command_name(command)}: flags {flags:#x}: must be those of a command")
        return int(size) - HEADER_SIZE

    def make(self, header: bytes, body: bytes, handles: list[Handle]) -> Message:
        number, command, _, flags, error_number = _HEADER.unpack(header)
        return Message(number, command, flags, body, handles, error_number if flags & _ERROR else 0)


def parse(message: Message, state: SessionState) -> Payload:
    """Return the checked body of a client's command. Raises Refused. The message keeps its handles."""
    kind, name = MESSAGES.get(message.command), command_name(message.command)
    if kind is None:
        raise Refused(f"command {name} is unknown", errno.EOPNOTSUPP)
    if message.command not in LEGAL[state]:
        raise Refused(f"{name}: the session is {state.value}")
    return _parse(message, kind.body, kind.fds)


def parse_posted(data: bytes) -> tuple[int, int, int] | None:
    """Return region, offset and value of a posted write of two bytes; None if ``data`` is any other message."""
    if len(data) != POSTED_SIZE:
        return None
    _, command, size, flags, _, offset, region, count, value = _POSTED.unpack(data)
    is_posted = command == Command.REGION_WRITE and size == POSTED_SIZE and flags == _NO_REPLY and count == 2
    return (region, offset, value) if is_posted else None


def declared_size(data: bytes) -> int:
    """Return the bytes of the message that ``data`` begin with, as its header declares; 0 before that is complete."""
    return int(_HEADER.unpack_from(data)[2]) if len(data) >= HEADER_SIZE else 0


def parse_reply(message: Message) -> Payload:
    """Return the checked body of a reply to a known command. The message keeps its handles.

    Raises Refused if the peer refused the command, ProtocolError if the body is not that of such a reply.
    """
    name = command_name(message.command)
    if message.flags & HeaderFlag.ERROR:
        why = os.strerror(message.error) if message.error in errno.errorcode else f"error {message.error}"
        peer = "server" if message.command in MESSAGES else "client"
        raise Refused(f"{name}: the {peer} refuses it: {why}", message.error)
    kind = MESSAGES.get(message.command) or SERVER_MESSAGES[message.command]
    try:
        return _parse(message, kind.reply, kind.reply_fds)
    except Refused as exc:
        raise ProtocolError(f"reply to {exc}") from None


def parse_server_command(message: Message) -> Payload:
    """Return the checked body of a server's command. Raises Refused. The message keeps its handles."""
    kind = SERVER_MESSAGES.get(message.command)
    if kind is None:
        raise Refused(f"command {command_name(message.command)} is none of a server's", errno.EOPNOTSUPP)
    return _parse(message, kind.body, kind.fds)


def _parse(message: Message, kind: type[Payload], fds: int) -> Payload:
    name, (low, high) = command_name(message.command), kind.SIZES
    if not low <= len(message.body) <= high:
        raise Refused(f"{name}: {len(message.body)} bytes: must be {low} to {high}")
    if len(message.handles) > fds:
        raise Refused(f"{name}: {len(message.handles)} file descriptors: must be at most {fds}")
    return kind.parse(message.body)


def emit(number: int, command: int, payload: Payload | None = None, flags: int = 0) -> bytes:
    """Return the bytes of a command."""
    body = payload.emit() if payload is not None else b""
    return _HEADER.pack(number, command, HEADER_SIZE + len(body), flags, 0) + body


def reply(message: Message, body: bytes = b"") -> bytes:
    """Return the bytes of a reply."""
    return _HEADER.pack(message.number, message.command, HEADER_SIZE + len(body), HeaderFlag.REPLY, 0) + body


def error(message: Message, number: int) -> bytes:
    """Return the bytes of a reply with an errno."""
    return _HEADER.pack(message.number, message.command, HEADER_SIZE, HeaderFlag.REPLY | HeaderFlag.ERROR, number)
