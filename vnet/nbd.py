"""The network block device protocol, a server's side, as far as bytes go: nothing here reads or sends any.

Fixed newstyle negotiation, then transmission with simple or structured replies, after the protocol's own
description (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md). All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum, IntFlag
from typing import ClassVar, NamedTuple

import attrs

__all__ = [
    "REQUEST_SIZE",
    "Command",
    "CommandFlag",
    "CommandType",
    "Export",
    "Handshake",
    "NbdError",
    "NbdProtocolError",
    "Receiver",
    "TransmissionFlag",
    "error_reply",
    "read_header",
    "simple_reply",
]

MAGIC, OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPTION_MAX = 8 << 10
"""Bytes of the longest option: a name has 4096 at most."""
NAME_MAX = 4096

_CLIENT_FLAGS = struct.Struct(">I")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE = struct.Struct(">IIQ")
_CHUNK = struct.Struct(">IHHQI")
_DATA_CHUNK = struct.Struct(">IHHQIQ")
REQUEST_SIZE = _REQUEST.size


class NbdProtocolError(Exception):
    """The client does not speak this protocol: nothing it sends from here on means anything."""


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8


class OptionReply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 1 << 31 | 1
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_TOO_BIG = 1 << 31 | 9


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256


class CommandType(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    FUA = 1
    NO_HOLE = 2
    DF = 4


class NbdError(IntEnum):
    """What a reply says went wrong; 0 where nothing did."""

    OK = 0
    PERM = 1
    IO = 5
    NOMEM = 12
    INVAL = 22
    NOSPC = 28
    OVERFLOW = 75
    NOTSUP = 95
    SHUTDOWN = 108


class ChunkType(IntEnum):
    NONE = 0
    OFFSET_DATA = 1
    ERROR = 1 << 15 | 1


DONE = 1
"""The flag of a reply's last chunk."""


@attrs.frozen
class Export:
    """What a client is told of the disk; sizes in bytes."""

    name: str
    size: int
    flags: TransmissionFlag
    description: str = ""
    block_min: int = 1
    block_preferred: int = 4096
    block_max: int = 32 << 20


class Handshake:
    """The negotiation with one client: feed it what came in, send what it answers, until it is over.

    ``name`` is the one export; an empty name means it, too. ``find`` gives it as it is when it is asked for.
    """

    def __init__(self, name: str, find: Callable[[], Export]) -> None:
        self.structured = False
        self.export: Export | None = None
        """Set once transmission begins."""
        self.over = False
        """No more options: transmission, or the end."""
        self._name = name
        self._find = find
        self._data = bytearray()
        self._flags: int | None = None

    @staticmethod
    def greeting() -> bytes:
        return MAGIC + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES)

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Replies to what ``data`` completes. Raises NbdProtocolError."""
        self._data += data
        while not self.over:
            if self._flags is None:
                if len(self._data) < _CLIENT_FLAGS.size:
                    return
                (self._flags,) = _CLIENT_FLAGS.unpack(self._cut(_CLIENT_FLAGS.size))
                if not self._flags & FIXED_NEWSTYLE or self._flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
                    raise NbdProtocolError(f"client flags {self._flags:#x}")
            if len(self._data) < _OPTION.size:
                return
            magic, option, size = _OPTION.unpack_from(self._data)
            if magic != OPTION_MAGIC:
                raise NbdProtocolError("this is no option")
            if size > OPTION_MAX:
                raise NbdProtocolError(f"an option of {size} bytes")
            if len(self._data) < _OPTION.size + size:
                return
            body = self._cut(_OPTION.size + size)[_OPTION.size :]
            serve = self._OPTIONS.get(option)
            if serve is None:
                yield _reply(option, OptionReply.ERR_UNSUP)
            else:
                yield from serve(self, option, body)

    def rest(self) -> bytes:
        """What came in behind the negotiation already."""
        return self._cut(len(self._data))

    def _cut(self, size: int) -> bytes:
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    def _known(self, name: bytes) -> bool:
        return name in (b"", self._name.encode())

    def _export_name(self, option: int, body: bytes) -> Iterator[bytes]:
        """The old way to begin, which knows no error but to hang up."""
        self.over = True
        if self._known(body):
            self.export = export = self._find()
            padding = b"" if (self._flags or 0) & NO_ZEROES else bytes(124)
            yield struct.pack(">QH", export.size, export.flags) + padding

    def _abort(self, option: int, body: bytes) -> Iterator[bytes]:
        self.over = True
        yield _reply(option, OptionReply.ACK)

    def _list(self, option: int, body: bytes) -> Iterator[bytes]:
        if body:
            yield _reply(option, OptionReply.ERR_INVALID)
            return
        name = self._name.encode()
        yield _reply(option, OptionReply.SERVER, struct.pack(">I", len(name)) + name)
        yield _reply(option, OptionReply.ACK)

    def _structured_reply(self, option: int, body: bytes) -> Iterator[bytes]:
        self.structured |= not body
        yield _reply(option, OptionReply.ERR_INVALID if body else OptionReply.ACK)

    def _go(self, option: int, body: bytes) -> Iterator[bytes]:
        """INFO and GO: the same answers, and GO begins transmission."""
        size = int.from_bytes(body[:4], "big")
        name, rest = body[4 : 4 + size], body[4 + size :]
        if len(rest) < 2 or len(rest) != 2 + 2 * int.from_bytes(rest[:2], "big") or size > NAME_MAX:
            yield _reply(option, OptionReply.ERR_INVALID)
            return
        if not self._known(name):
            yield _reply(option, OptionReply.ERR_UNKNOWN, b"there is no such export")
            return
        wanted = {int.from_bytes(rest[at : at + 2], "big") for at in range(2, len(rest), 2)}
        export = self._find()
        if self.structured:
            export = attrs.evolve(export, flags=export.flags | TransmissionFlag.SEND_DF)
        answers = {
            Info.EXPORT: struct.pack(">QH", export.size, export.flags),
            Info.NAME: export.name.encode(),
            Info.DESCRIPTION: export.description.encode(),
            Info.BLOCK_SIZE: struct.pack(">III", export.block_min, export.block_preferred, export.block_max),
        }
        for info, answer in answers.items():
            if info in wanted or info is Info.EXPORT:
                yield _reply(option, OptionReply.INFO, struct.pack(">H", info) + answer)
        yield _reply(option, OptionReply.ACK)
        if option == Option.GO:
            self.over, self.export = True, export

    _OPTIONS: ClassVar[Mapping[int, Callable[[Handshake, int, bytes], Iterator[bytes]]]] = {
        Option.EXPORT_NAME: _export_name,
        Option.ABORT: _abort,
        Option.LIST: _list,
        Option.INFO: _go,
        Option.GO: _go,
        Option.STRUCTURED_REPLY: _structured_reply,
    }


def _reply(option: int, kind: OptionReply, body: bytes = b"") -> bytes:
    return _OPTION_REPLY.pack(REPLY_MAGIC, option, kind, len(body)) + body


class Command(NamedTuple):  # which is made for every command in a third of the time
    """One request of a client, as it stands on the wire: nothing of it is checked but its magic."""

    flags: int
    type: int
    cookie: int
    offset: int
    size: int
    """Bytes; of a write, what follows it."""


class Receiver:
    """Cuts what a client sends into commands, and lets the data of a write go where they belong without a copy.

    Receive into `targets`, then tell `received`; take commands with `next`. After a write, say with `into` where its
    data go: what is here already is copied, the rest is received there.
    """

    def __init__(self, first: bytes = b"", size: int = 16 << 10) -> None:
        """``first`` came in already; ``size`` bytes of buffer for commands."""
        size = max(size, len(first))
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._buffer[: len(first)] = first
        self._start, self._end = 0, len(first)
        self._payload: list[memoryview] = []

    def next(self) -> Command | None:
        """The next command that is here as a whole. Raises NbdProtocolError."""
        start = self._start
        if self._end - start < REQUEST_SIZE:
            return None
        magic, flags, kind, cookie, offset, size = _REQUEST.unpack_from(self._buffer, start)
        if magic != REQUEST_MAGIC:
            raise NbdProtocolError(f"this is no request: {magic:#010x}")
        self._start = start + REQUEST_SIZE
        return Command(flags, kind, cookie, offset, size)

    def into(self, views: Sequence[memoryview]) -> bool:
        """Where the next bytes go; True when they are all here."""
        rest = []
        for view in views:
            part = min(len(view), self._end - self._start)
            view[:part] = self._view[self._start : self._start + part]
            self._start += part
            if part < len(view):
                rest.append(view[part:])
        self._payload = rest
        return not rest

    @property
    def filled(self) -> bool:
        """Whether what `into` said is all here."""
        return not self._payload

    def targets(self) -> list[memoryview]:
        """Where to receive to."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < REQUEST_SIZE:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        return [*self._payload, self._view[self._end :]]

    def received(self, size: int) -> None:
        """``size`` bytes came into `targets`."""
        payload = self._payload
        while payload and size:
            part = min(size, len(payload[0]))
            size -= part
            if part == len(payload[0]):
                del payload[0]
            else:
                payload[0] = payload[0][part:]
        self._end += size


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """A reply; data that were read follow it where it is no error."""
    return _SIMPLE.pack(SIMPLE_MAGIC, error, cookie)


def read_header(cookie: int, offset: int, size: int, *, last: bool) -> bytes:
    """What goes before ``size`` bytes read at ``offset``, as a chunk of a structured reply."""
    flags = DONE if last else 0
    return _DATA_CHUNK.pack(STRUCTURED_MAGIC, flags, ChunkType.OFFSET_DATA, cookie, 8 + size, offset)


def error_reply(cookie: int, error: int) -> bytes:
    """The last chunk of a structured reply to a read that failed; of one to a read of nothing, where it is no error."""
    if not error:
        return _CHUNK.pack(STRUCTURED_MAGIC, DONE, ChunkType.NONE, cookie, 0)
    return _CHUNK.pack(STRUCTURED_MAGIC, DONE, ChunkType.ERROR, cookie, 6) + struct.pack(">IH", error, 0)
