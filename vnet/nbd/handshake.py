"""The negotiation with one client, fixed newstyle: what it may ask for before it reads and writes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import attrs

from vnet.nbd.protocol import Export, Info, NbdProtocolError, Option, OptionReply, TransmissionFlag

__all__ = ["NAME_MAX", "OPTION_MAX", "Handshake"]

MAGIC, OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPTION_MAX = 8 << 10
"""Bytes of the longest option that is served: a name has 4096 at most. Longer options are skipped and refused."""
OPTION_END = 32 << 20
"""Bytes of an option beyond which it is taken for an attack: the connection ends."""
NAME_MAX = 4096

_CLIENT_FLAGS = struct.Struct(">I")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")


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
        self._excess = 0  # bytes of a refused option that are still to be skipped
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
                if self._flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
                    raise NbdProtocolError(f"client flags {self._flags:#x}")
            self._excess -= len(self._cut(self._excess))
            if len(self._data) < _OPTION.size:
                return
            magic, option, size = _OPTION.unpack_from(self._data)
            if magic != OPTION_MAGIC:
                raise NbdProtocolError("this is no option")
            if size > OPTION_END:
                raise NbdProtocolError(f"an option of {size} bytes")
            serve = self._OPTIONS.get(option, _unsupported)
            if size > OPTION_MAX:
                serve, self._excess = self._TOO_LONG.get(option, serve), size
                size = 0
            if len(self._data) < _OPTION.size + size:
                return
            body = self._cut(_OPTION.size + size)[_OPTION.size :]
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

    def _found(self) -> Export:
        """The export as it is now, for this client: reads in one piece are offered with structured replies only."""
        export = self._find()
        return attrs.evolve(export, flags=export.flags | TransmissionFlag.SEND_DF) if self.structured else export

    def _hang_up(self, option: int, body: bytes) -> Iterator[bytes]:
        """EXPORT_NAME has no error reply."""
        self.over = True
        return iter(())

    def _too_big(self, option: int, body: bytes) -> Iterator[bytes]:
        yield _reply(option, OptionReply.ERR_TOO_BIG)

    def _export_name(self, option: int, body: bytes) -> Iterator[bytes]:
        """The one option of newstyle clients that are not "fixed"."""
        self.over = True
        if self._known(body):
            self.export = export = self._found()
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
        export = self._found()
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
    _TOO_LONG: ClassVar[Mapping[int, Callable[[Handshake, int, bytes], Iterator[bytes]]]] = {
        **dict.fromkeys(_OPTIONS, _too_big),
        Option.ABORT: _abort,
        Option.EXPORT_NAME: _hang_up,
    }
    """What serves an option of more than OPTION_MAX bytes, which are not looked at."""


def _unsupported(handshake: Handshake, option: int, body: bytes) -> Iterator[bytes]:
    yield _reply(option, OptionReply.ERR_UNSUP)


def _reply(option: int, kind: OptionReply, body: bytes = b"") -> bytes:
    return _OPTION_REPLY.pack(REPLY_MAGIC, option, kind, len(body)) + body
