"""The messages of vfio-user, without I/O: their types, their framing in a stream, and their file descriptors."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from enum import Enum

import attrs

from drivers.carriers.framing import FrameAssembler, ProtocolError
from drivers.contracts.ipc import Handle
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
    RegionRead,
    RegionWrite,
    RegionWrites,
    SetIrqs,
    Version,
)

__all__ = [
    "HEADER_SIZE",
    "LEGAL",
    "MESSAGES",
    "Assembler",
    "ClientMessage",
    "MessageType",
    "SessionState",
    "command_name",
    "emit",
    "error",
    "parse",
    "reply",
]

_HEADER = struct.Struct("<HHIII")
HEADER_SIZE = _HEADER.size


@attrs.frozen
class MessageType:
    """A message type."""

    body: type[Payload] = Empty
    fds: int = 0
    """Most file descriptors."""


C, T = Command, MessageType
MESSAGES: Mapping[int, MessageType] = {
    C.VERSION: T(Version),
    C.DMA_MAP: T(DmaMap, fds=1),
    C.DMA_UNMAP: T(DmaUnmap),
    C.DEVICE_GET_INFO: T(DeviceInfo),
    C.DEVICE_GET_REGION_INFO: T(RegionInfo),
    C.DEVICE_GET_REGION_IO_FDS: T(RegionIoFds),
    C.DEVICE_GET_IRQ_INFO: T(IrqInfo),
    C.DEVICE_SET_IRQS: T(SetIrqs, fds=FDS_MAX),
    C.REGION_READ: T(RegionRead),
    C.REGION_WRITE: T(RegionWrite),
    C.DEVICE_RESET: T(),
    C.REGION_WRITE_MULTI: T(RegionWrites),
}
"""Supported commands of the client. Migration is unsupported."""


class SessionState(Enum):
    """States of a session."""

    NEW = "without a version"
    READY = "ready"


LEGAL: Mapping[SessionState, frozenset[Command]] = {
    SessionState.NEW: frozenset({C.VERSION}),
    SessionState.READY: frozenset(C) - {C.VERSION},
}
"""Commands by state. The protocol prescribes no other order."""


def command_name(command: int) -> str:
    """Return the name of a command, or its number if it is unknown."""
    return Command(command).name if command in MESSAGES else str(command)


@attrs.frozen(eq=False)
class ClientMessage:
    """A received command; only the size of its body is bounded."""

    number: int
    command: int
    flags: int
    body: bytes
    handles: list[Handle]
    """Received file descriptors. A user removes a handle from the list; `close` closes the rest."""

    @property
    def need_reply(self) -> bool:
        return not self.flags & HeaderFlag.NO_REPLY

    def close(self) -> None:
        while self.handles:
            self.handles.pop().close()


class Assembler(FrameAssembler[ClientMessage]):
    """Splits a client's byte stream into commands."""

    def __init__(self) -> None:
        super().__init__(HEADER_SIZE, FDS_MAX)

    def check_header(self, header: bytes, fds: int) -> int:
        """Check a header; return the bytes of the body. Unknown commands are received, in order to refuse them."""
        _, command, size, flags, _ = _HEADER.unpack(header)
        if not HEADER_SIZE <= size <= MESSAGE_MAX:
            raise ProtocolError(f"{command_name(command)}: a message of {size} bytes")
        if flags & ~int(HeaderFlag.NO_REPLY):
            raise ProtocolError(f"{command_name(command)}: flags {flags:#x}: must be those of a command")
        return int(size) - HEADER_SIZE

    def make(self, header: bytes, body: bytes, handles: list[Handle]) -> ClientMessage:
        number, command, _, flags, _ = _HEADER.unpack(header)
        return ClientMessage(number, command, flags, body, handles)


def parse(message: ClientMessage, state: SessionState) -> Payload:
    """Return the checked body of a command. Raises Refused. The message keeps its handles."""
    kind, name = MESSAGES.get(message.command), command_name(message.command)
    if kind is None:
        raise Refused(f"command {name} is unknown", errno.EOPNOTSUPP)
    if message.command not in LEGAL[state]:
        raise Refused(f"{name}: the session is {state.value}")
    low, high = kind.body.SIZES
    if not low <= len(message.body) <= high:
        raise Refused(f"{name}: {len(message.body)} bytes: must be {low} to {high}")
    if len(message.handles) > kind.fds:
        raise Refused(f"{name}: {len(message.handles)} file descriptors: must be at most {kind.fds}")
    return kind.body.parse(message.body)


def emit(number: int, command: int, payload: Payload | None = None, flags: int = 0) -> bytes:
    """Return the bytes of a command."""
    body = payload.emit() if payload is not None else b""
    return _HEADER.pack(number, command, HEADER_SIZE + len(body), flags, 0) + body


def reply(message: ClientMessage, body: bytes = b"") -> bytes:
    """Return the bytes of a reply."""
    return _HEADER.pack(message.number, message.command, HEADER_SIZE + len(body), HeaderFlag.REPLY, 0) + body


def error(message: ClientMessage, number: int) -> bytes:
    """Return the bytes of a reply with an errno."""
    return _HEADER.pack(message.number, message.command, HEADER_SIZE, HeaderFlag.REPLY | HeaderFlag.ERROR, number)
