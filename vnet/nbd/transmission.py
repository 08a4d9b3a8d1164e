"""After the negotiation: commands with their data come in, simple or structured replies go out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from vnet.nbd.protocol import ChunkType, NbdProtocolError

__all__ = ["REQUEST_SIZE", "Command", "Receiver", "error_reply", "read_header", "simple_reply"]

REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
DONE = 1
"""The flag of a reply's last chunk."""

_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE = struct.Struct(">IIQ")
_CHUNK = struct.Struct(">IHHQI")
_DATA_CHUNK = struct.Struct(">IHHQIQ")
REQUEST_SIZE = _REQUEST.size


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
