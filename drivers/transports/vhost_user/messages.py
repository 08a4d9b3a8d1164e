"""The messages of vhost-user, without I/O: their types, their framing in a stream, and their file descriptors.

File descriptors accompany the bytes. They are opaque here (`drivers.contracts.ipc.Handle`): counted, passed on, or
closed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

import attrs

from drivers.carriers.framing import FrameAssembler, ProtocolError
from drivers.contracts.ipc import Handle
from drivers.transports.vhost_user.constants import (
    MAX_BODY,
    MAX_REGIONS,
    VERSION,
    BackendRequest,
    FrontendRequest,
    HeaderFlag,
    ProtocolFeature,
)
from drivers.transports.vhost_user.payloads import (
    U64,
    Config,
    Empty,
    Inflight,
    Iotlb,
    Log,
    MemTable,
    MessageRefused,
    Payload,
    SingleRegion,
    VringAddr,
    VringFd,
    VringState,
)

__all__ = [
    "BACKEND_MESSAGES",
    "FRONTEND_MESSAGES",
    "HEADER_SIZE",
    "Assembler",
    "UserMessage",
    "MessageType",
    "ack",
    "emit",
    "parse",
    "parse_reply",
    "reply",
    "request_name",
]

_HEADER = struct.Struct("<III")
HEADER_SIZE = _HEADER.size


@attrs.frozen
class MessageType:
    """A message type, with its reply."""

    body: type[Payload] = Empty
    answer: type[Payload] | None = None
    """Body of the mandatory reply; None for types that are only acknowledged, on request."""
    fds: tuple[int, int] = (0, 0)
    """Least and most file descriptors."""
    answer_fds: int = 0
    """Most file descriptors of the reply; a negative reply has none."""
    needs: ProtocolFeature | None = None
    """Protocol feature that the type needs."""
    ring: bool = False
    """Whether it concerns one ring: then the body has an ``index``."""


R, F, T = FrontendRequest, ProtocolFeature, MessageType
FRONTEND_MESSAGES: Mapping[int, MessageType] = {
    R.GET_FEATURES: T(answer=U64),
    R.SET_FEATURES: T(U64),
    R.SET_OWNER: T(),
    R.RESET_OWNER: T(),
    R.SET_MEM_TABLE: T(MemTable, fds=(1, MAX_REGIONS)),
    R.SET_LOG_BASE: T(Log, answer=Empty, fds=(1, 1), needs=F.LOG_SHMFD),
    R.SET_LOG_FD: T(fds=(1, 1), needs=F.LOG_SHMFD),
    R.SET_VRING_NUM: T(VringState, ring=True),
    R.SET_VRING_ADDR: T(VringAddr, ring=True),
    R.SET_VRING_BASE: T(VringState, ring=True),
    R.GET_VRING_BASE: T(VringState, answer=VringState, ring=True),
    R.SET_VRING_KICK: T(VringFd, fds=(0, 1), ring=True),
    R.SET_VRING_CALL: T(VringFd, fds=(0, 1), ring=True),
    R.SET_VRING_ERR: T(VringFd, fds=(0, 1), ring=True),
    R.GET_PROTOCOL_FEATURES: T(answer=U64),
    R.SET_PROTOCOL_FEATURES: T(U64),
    R.GET_QUEUE_NUM: T(answer=U64, needs=F.MQ),
    R.SET_VRING_ENABLE: T(VringState, ring=True),
    R.SEND_RARP: T(U64, needs=F.RARP),
    R.NET_SET_MTU: T(U64, needs=F.MTU),
    R.SET_BACKEND_REQ_FD: T(fds=(1, 1), needs=F.BACKEND_REQ),
    R.IOTLB_MSG: T(Iotlb, answer=U64),
    R.SET_VRING_ENDIAN: T(VringState, needs=F.CROSS_ENDIAN, ring=True),
    R.GET_CONFIG: T(Config, answer=Config, needs=F.CONFIG),
    R.SET_CONFIG: T(Config, needs=F.CONFIG),
    R.GET_INFLIGHT_FD: T(Inflight, answer=Inflight, answer_fds=1, needs=F.INFLIGHT_SHMFD),
    R.SET_INFLIGHT_FD: T(Inflight, fds=(1, 1), needs=F.INFLIGHT_SHMFD),
    R.RESET_DEVICE: T(needs=F.RESET_DEVICE),
    R.VRING_KICK: T(VringState, needs=F.INBAND_NOTIFICATIONS, ring=True),
    R.GET_MAX_MEM_SLOTS: T(answer=U64, needs=F.CONFIGURE_MEM_SLOTS),
    R.ADD_MEM_REG: T(SingleRegion, fds=(1, 1), needs=F.CONFIGURE_MEM_SLOTS),
    R.REM_MEM_REG: T(SingleRegion, fds=(0, 1), needs=F.CONFIGURE_MEM_SLOTS),
    R.SET_STATUS: T(U64, needs=F.STATUS),
    R.GET_STATUS: T(answer=U64, needs=F.STATUS),
}
"""Supported messages of the front end. Crypto, postcopy, GPU and device state messages are unsupported."""
B = BackendRequest
BACKEND_MESSAGES: Mapping[int, MessageType] = {
    B.IOTLB_MSG: T(Iotlb),
    B.CONFIG_CHANGE_MSG: T(needs=F.CONFIG),
    B.VRING_CALL: T(VringState, needs=F.INBAND_NOTIFICATIONS, ring=True),
    B.VRING_ERR: T(VringState, needs=F.INBAND_NOTIFICATIONS, ring=True),
}
"""Supported requests of the back end."""
_UNKNOWN = MessageType()


def request_name(request: int) -> str:
    """Return the name of a front end's request, or its number if it is unknown."""
    return FrontendRequest(request).name if request in FRONTEND_MESSAGES else str(request)


@attrs.frozen(eq=False)
class UserMessage:
    """A received message; only the size of its body is checked."""

    request: int
    flags: int
    body: bytes
    handles: list[Handle]
    """Received file descriptors. A user removes a handle from the list; `close` closes the rest."""

    @property
    def need_reply(self) -> bool:
        return bool(self.flags & HeaderFlag.NEED_REPLY)

    def close(self) -> None:
        while self.handles:
            self.handles.pop().close()


class Assembler(FrameAssembler[UserMessage]):
    """Splits a byte stream into messages."""

    def __init__(self, messages: Mapping[int, MessageType], *, replies: bool = False) -> None:
        """``messages`` are the types to expect; with ``replies``, their replies."""
        super().__init__(HEADER_SIZE, max(m.answer_fds if replies else m.fds[1] for m in messages.values()))
        self._messages = messages
        self._replies = replies

    def check_header(self, header: bytes, fds: int) -> int:
        """Check a header; return the bytes of the body. Unknown messages are received, in order to refuse them."""
        request, _, size = _HEADER.unpack(header)
        kind = self._messages.get(request, _UNKNOWN)
        low, high = 0, MAX_BODY
        fds_min, fds_max = 0, self._fds_max
        if request in self._messages:
            if self._replies:
                low, high = (kind.answer or U64).SIZES
                fds_max = kind.answer_fds
            else:
                low, high = kind.body.SIZES
                fds_min, fds_max = kind.fds
        if not low <= size <= high:
            raise ProtocolError(f"message {request} of {size} bytes")
        if not fds_min <= fds <= fds_max:
            raise ProtocolError(f"message {request} with {fds} file descriptors")
        return int(size)

    def make(self, header: bytes, body: bytes, handles: list[Handle]) -> UserMessage:
        request, flags, _ = _HEADER.unpack(header)
        return UserMessage(request, flags, body, handles)


def parse(message: UserMessage, messages: Mapping[int, MessageType]) -> Payload:
    """Return the checked body of a request. Raises MessageRefused, ProtocolError. The message keeps its handles."""
    kind = messages.get(message.request)
    if kind is None:
        raise MessageRefused(f"message {message.request} is unknown")
    if message.flags & ~HeaderFlag.NEED_REPLY != VERSION:
        raise MessageRefused(f"message {message.request} with flags {message.flags:#x}")
    payload = kind.body.parse(message.body)
    if payload.fds not in (None, len(message.handles)):
        raise ProtocolError(f"message {message.request} with {len(message.handles)} file descriptors: {payload}")
    return payload


def parse_reply(message: UserMessage, request: int, messages: Mapping[int, MessageType]) -> Payload:
    """Return the checked body of the reply to ``request``. Raises ProtocolError, also for a wrong request."""
    if message.request != request:
        raise ProtocolError(f"a reply to message {message.request} instead of {request}")
    if message.flags & ~HeaderFlag.NEED_REPLY != VERSION | HeaderFlag.REPLY:
        raise ProtocolError(f"a reply to message {request} with flags {message.flags:#x}")
    try:
        return (messages[request].answer or U64).parse(message.body)
    except MessageRefused as exc:
        raise ProtocolError(str(exc)) from None


def emit(request: IntEnum, payload: Payload | None = None, *, need_reply: bool = False) -> bytes:
    """Return the bytes of a request."""
    return _emit(request, HeaderFlag.NEED_REPLY if need_reply else 0, payload)


def reply(request: int, payload: Payload) -> bytes:
    """Return the bytes of a reply."""
    return _emit(request, HeaderFlag.REPLY, payload)


def ack(request: int, *, good: bool) -> bytes:
    """Return the bytes of an acknowledgement (REPLY_ACK)."""
    return reply(request, U64(int(not good)))


def _emit(request: int, flags: int, payload: Payload | None) -> bytes:
    body = payload.emit() if payload is not None else b""
    return _HEADER.pack(request, VERSION | flags, len(body)) + body
