"""vhost-user's messages without I/O: which there are, what goes with them, and how a stream is cut into them.

File descriptors travel beside the bytes. Here they are opaque (`drivers.contracts.ipc.Handle`): counted, handed on, or
closed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum

import attrs

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
    ProtocolError,
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
]

_HEADER = struct.Struct("<III")
HEADER_SIZE = _HEADER.size


@attrs.frozen
class MessageType:
    """One type of message, and its answer."""

    body: type[Payload] = Empty
    answer: type[Payload] | None = None
    """What is answered always; None where that is only an acknowledgement, and only when it is asked for."""
    fds: tuple[int, int] = (0, 0)
    """File descriptors that go with it, the fewest and the most."""
    answer_fds: int = 0
    """The most that go with the answer; one that says "there is none" has none."""
    needs: ProtocolFeature | None = None
    """It only exists where this was agreed on."""
    ring: bool = False
    """It is about one ring: the body has its ``index``."""


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
"""What a front end sends, as far as it is known here; other types exist (crypto, postcopy, GPU, device state)."""
B = BackendRequest
BACKEND_MESSAGES: Mapping[int, MessageType] = {
    B.IOTLB_MSG: T(Iotlb),
    B.CONFIG_CHANGE_MSG: T(needs=F.CONFIG),
    B.VRING_CALL: T(VringState, needs=F.INBAND_NOTIFICATIONS, ring=True),
    B.VRING_ERR: T(VringState, needs=F.INBAND_NOTIFICATIONS, ring=True),
}
"""What a back end sends of its own accord."""
_UNKNOWN = MessageType()


@attrs.frozen(eq=False)
class UserMessage:
    """One message as it came in: nothing of its body is checked but its size."""

    request: int
    flags: int
    body: bytes
    handles: list[Handle]
    """File descriptors that came with it; whoever takes one takes it off the list, `close` gives back the rest."""

    @property
    def need_reply(self) -> bool:
        return bool(self.flags & HeaderFlag.NEED_REPLY)

    def close(self) -> None:
        while self.handles:
            self.handles.pop().close()


class Assembler:
    """Cuts what one side sends into messages.

    Receive at most `wanted` bytes at a time and `feed` them: file descriptors belong to the message whose first byte
    they came with, and where two messages are received at once nobody can tell any more to which.
    """

    def __init__(self, messages: Mapping[int, MessageType], *, replies: bool = False) -> None:
        """``messages`` that may come, or their answers."""
        self._messages = messages
        self._replies = replies
        self._fds_max = max(m.answer_fds if replies else m.fds[1] for m in messages.values())
        self._data = bytearray()
        self._handles: list[Handle] = []
        self._size: int | None = None

    @property
    def wanted(self) -> int:
        """Bytes that are still lacking for the header, or for the message; never 0."""
        return HEADER_SIZE - len(self._data) if self._size is None else HEADER_SIZE + self._size - len(self._data)

    @property
    def begun(self) -> bool:
        """Whether a message is here in part."""
        return bool(self._data)

    def feed(self, data: bytes, handles: Sequence[Handle] = ()) -> UserMessage | None:
        """The message that ``data`` completes. Raises ProtocolError; then every file descriptor is closed."""
        first = not self._data
        self._handles += handles
        try:
            if not data or len(data) > self.wanted:
                raise ProtocolError("more was received than a message is long")
            if handles and not first:
                raise ProtocolError("a file descriptor came in the middle of a message")
            self._data += data
            if self._size is None:
                # More than any message takes is not kept until the header says so, too.
                if len(self._handles) > self._fds_max:
                    raise ProtocolError(f"{len(self._handles)} file descriptors with one message")
                if len(self._data) == HEADER_SIZE:
                    request, _, size = _HEADER.unpack(self._data)
                    self._size = self._judge(request, size)
            return self._cut() if self._size is not None and not self.wanted else None
        except ProtocolError:
            self.close()
            raise

    def close(self) -> None:
        """Forget what is here in part."""
        for handle in self._handles:
            handle.close()
        self._handles = []
        self._data.clear()
        self._size = None

    def _judge(self, request: int, size: int) -> int:
        """The bytes of the body to come. What is unknown is still received, so that it can be refused."""
        kind = self._messages.get(request, _UNKNOWN)
        low, high = 0, MAX_BODY
        least, most = 0, self._fds_max
        if request in self._messages:
            if self._replies:
                low, high = (kind.answer or U64).SIZES
                most = kind.answer_fds
            else:
                low, high = kind.body.SIZES
                least, most = kind.fds
        if not low <= size <= high:
            raise ProtocolError(f"message {request} of {size} bytes")
        if not least <= len(self._handles) <= most:
            raise ProtocolError(f"message {request} with {len(self._handles)} file descriptors")
        return size

    def _cut(self) -> UserMessage:
        request, flags, _ = _HEADER.unpack_from(self._data)
        message = UserMessage(request, flags, bytes(self._data[HEADER_SIZE:]), self._handles)
        self._handles = []
        self._data.clear()
        self._size = None
        return message


def parse(message: UserMessage, messages: Mapping[int, MessageType]) -> Payload:
    """The checked body of a request. Raises MessageRefused, ProtocolError; the message keeps its file descriptors."""
    kind = messages.get(message.request)
    if kind is None:
        raise MessageRefused(f"message {message.request} is unknown here")
    if message.flags & ~HeaderFlag.NEED_REPLY != VERSION:
        raise MessageRefused(f"message {message.request} with flags {message.flags:#x}")
    payload = kind.body.parse(message.body)
    if payload.fds not in (None, len(message.handles)):
        raise ProtocolError(f"message {message.request} with {len(message.handles)} file descriptors: {payload}")
    return payload


def parse_reply(message: UserMessage, request: int, messages: Mapping[int, MessageType]) -> Payload:
    """The checked answer to ``request``. Raises ProtocolError, also for an answer to something else."""
    if message.request != request:
        raise ProtocolError(f"an answer to message {message.request} where {request} was asked")
    if message.flags & ~HeaderFlag.NEED_REPLY != VERSION | HeaderFlag.REPLY:
        raise ProtocolError(f"an answer to message {request} with flags {message.flags:#x}")
    try:
        return (messages[request].answer or U64).parse(message.body)
    except MessageRefused as exc:
        raise ProtocolError(str(exc)) from None


def emit(request: IntEnum, payload: Payload | None = None, *, need_reply: bool = False) -> bytes:
    """The bytes of a request."""
    return _emit(request, HeaderFlag.NEED_REPLY if need_reply else 0, payload)


def reply(request: int, payload: Payload) -> bytes:
    """The bytes of an answer."""
    return _emit(request, HeaderFlag.REPLY, payload)


def ack(request: int, *, good: bool) -> bytes:
    """The bytes of an acknowledgement (REPLY_ACK)."""
    return reply(request, U64(int(not good)))


def _emit(request: int, flags: int, payload: Payload | None) -> bytes:
    body = payload.emit() if payload is not None else b""
    return _HEADER.pack(request, VERSION | flags, len(body)) + body
