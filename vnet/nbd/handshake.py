"""Fixed newstyle negotiation with one client: the options it may send before transmission."""

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
"""Size of the longest accepted option in bytes: a name has 4096 at most. Longer options are skipped and refused."""
OPTION_END = 32 << 20
"""Size of an option in bytes above which the connection ends, because it looks like an attack."""
NAME_MAX = 4096
"""Maximum size of an export name in bytes."""

_CLIENT_FLAGS = struct.Struct(">I")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")


class Handshake:
    """Negotiation with one client: `feed` it received bytes and send its replies, until it is over.

    ``name`` is the only export; clients can also select it by an empty name. ``get_export`` returns its current state.
    """

    def __init__(self, name: str, get_export: Callable[[], Export]) -> None:
        self.structured = False
        self.export: Export | None = None
        """The export that the client selected; set when transmission begins."""
        self.over = False
        """Whether negotiation ended: in transmission, or in the end of the connection."""
        self._name = name
        self._get_export = get_export
        self._data = bytearray()
        self._excess = 0  # bytes of a refused option still to be skipped
        self._flags: int | None = None

    @staticmethod
    def greeting() -> bytes:
        return MAGIC + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES)

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Take received bytes; yield the replies to all options that are complete. Raises NbdProtocolError."""
        self._data += data
        while not self.over:
            if self._flags is None:
                if len(self._data) < _CLIENT_FLAGS.size:
                    return
                (self._flags,) = _CLIENT_FLAGS.unpack(self._cut(_CLIENT_FLAGS.size))
                if self._flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
                    raise NbdProtocolError(f"unknown client flags {self._flags:#x}")
            self._excess -= len(self._cut(self._excess))
            if len(self._data) < _OPTION.size:
                return
            magic, option, size = _OPTION.unpack_from(self._data)
            if magic != OPTION_MAGIC:
                raise NbdProtocolError("an option without its magic number")
            if size > OPTION_END:
                raise NbdProtocolError(f"an option of {size} bytes is too long")
            serve = self._OPTIONS.get(option, _unsupported)
            if size > OPTION_MAX:
                serve, self._excess = self._TOO_LONG.get(option, serve), size
                size = 0
            if len(self._data) < _OPTION.size + size:
                return
            body = self._cut(_OPTION.size + size)[_OPTION.size :]
            yield from serve(self, option, body)

    def rest(self) -> bytes:
        """Return the bytes received after the negotiation."""
        return self._cut(len(self._data))

    def _cut(self, size: int) -> bytes:
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    def _is_export(self, name: bytes) -> bool:
        return name in (b"", self._name.encode())

    def _offered_export(self) -> Export:
        """Return the export's current state; offer "don't fragment" only to a client with structured replies."""
        export = self._get_export()
        return attrs.evolve(export, flags=export.flags | TransmissionFlag.SEND_DF) if self.structured else export

    def _hang_up(self, option: int, body: bytes) -> Iterator[bytes]:
        """End the connection, because EXPORT_NAME has no error reply."""
        self.over = True
        return iter(())

    def _too_big(self, option: int, body: bytes) -> Iterator[bytes]:
        yield _reply(option, OptionReply.ERR_TOO_BIG)

    def _export_name(self, option: int, body: bytes) -> Iterator[bytes]:
        """Serve EXPORT_NAME, the only option of newstyle clients that are not "fixed"."""
        self.over = True
        if self._is_export(body):
            self.export = export = self._offered_export()
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
        """Serve INFO and GO, which have the same replies; GO begins transmission."""
        size = int.from_bytes(body[:4], "big")
        name, rest = body[4 : 4 + size], body[4 + size :]
        if len(rest) < 2 or len(rest) != 2 + 2 * int.from_bytes(rest[:2], "big") or size > NAME_MAX:
            yield _reply(option, OptionReply.ERR_INVALID)
            return
        if not self._is_export(name):
            yield _reply(option, OptionReply.ERR_UNKNOWN, b"there is no such export")
            return
        requested = {int.from_bytes(rest[at : at + 2], "big") for at in range(2, len(rest), 2)}
        export = self._offered_export()
        answers = {
            Info.EXPORT: struct.pack(">QH", export.size, export.flags),
            Info.NAME: export.name.encode(),
            Info.DESCRIPTION: export.description.encode(),
            Info.BLOCK_SIZE: struct.pack(">III", export.block_min, export.block_preferred, export.block_max),
        }
        for info, answer in answers.items():
            if info in requested or info is Info.EXPORT:
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
    """Handlers of options longer than OPTION_MAX bytes, whose bodies are skipped."""


def _unsupported(handshake: Handshake, option: int, body: bytes) -> Iterator[bytes]:
    yield _reply(option, OptionReply.ERR_UNSUP)


def _reply(option: int, kind: OptionReply, body: bytes = b"") -> bytes:
    return _OPTION_REPLY.pack(REPLY_MAGIC, option, kind, len(body)) + body
