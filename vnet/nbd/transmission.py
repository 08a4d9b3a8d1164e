"""Transmission phase: parses commands with their data, and emits simple and structured replies."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from vnet.nbd.protocol import ChunkType, NbdProtocolError

__all__ = ["REQUEST_SIZE", "NbdCommand", "CommandReceiver", "error_reply", "read_header", "simple_reply"]

REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
DONE = 1
"""Flag of a reply's last chunk."""

_FIELDS = struct.Struct(">4xHHQQI")
_SIMPLE = struct.Struct(">IIQ")
_CHUNK = struct.Struct(">IHHQI")
_DATA_CHUNK = struct.Struct(">IHHQIQ")
REQUEST_SIZE = _FIELDS.size
MAGIC = REQUEST_MAGIC.to_bytes(4, "big")
_new = tuple.__new__  # makes an `NbdCommand` in a third of the time that its own constructor takes


class NbdCommand(NamedTuple):  # takes a third of the time that an attrs class takes to construct
    """A client's request as received; only its magic number is checked."""

    flags: int
    type: int
    cookie: int
    offset: int
    size: int
    """Bytes to read, write or trim; a write's data follow the command."""


class CommandReceiver:
    """Splits a client's bytes into commands, and receives the data of writes without a copy.

    Receive into `targets`, then call `received`; take commands with `next`. After a write, call `into` with the
    destination of its data: bytes already in the buffer are copied, the rest is received there directly.
    """

    def __init__(self, first: bytes = b"", size: int = 16 << 10) -> None:
        """``first`` is data received before; ``size`` is the buffer's size in bytes."""
        size = max(size, len(first))
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._buffer[: len(first)] = first
        self._start, self._end = 0, len(first)
        self._payload: list[memoryview] = []

    def next(self) -> NbdCommand | None:
        """Return the next command; None if it is incomplete. Raises NbdProtocolError."""
        start = self._start
        if self._end - start < REQUEST_SIZE:
            return None
        if not self._buffer.startswith(MAGIC, start, self._end):
            magic = int.from_bytes(self._buffer[start : start + len(MAGIC)], "big")
            raise NbdProtocolError(f"a request without its magic number: {magic:#010x}")
        self._start = start + REQUEST_SIZE
        return _new(NbdCommand, _FIELDS.unpack_from(self._buffer, start))

    def into(self, views: Sequence[memoryview]) -> bool:
        """Set the destination of the next bytes; return whether all are already received."""
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
        """Whether all data for `into` are received."""
        return not self._payload

    def targets(self) -> list[memoryview]:
        """Return the buffers to receive into."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < REQUEST_SIZE:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        return [*self._payload, self._view[self._end :]]

    def received(self, size: int) -> None:
        """Account for ``size`` bytes received into `targets`."""
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
    """Return a simple reply; after a successful read, its data follow."""
    return _SIMPLE.pack(SIMPLE_MAGIC, error, cookie)


def read_header(cookie: int, offset: int, size: int, *, last: bool) -> bytes:
    """Return the header of a data chunk of a structured reply: ``size`` bytes read at ``offset``."""
    flags = DONE if last else 0
    return _DATA_CHUNK.pack(STRUCTURED_MAGIC, flags, ChunkType.OFFSET_DATA, cookie, 8 + size, offset)


def error_reply(cookie: int, error: int) -> bytes:
    """Return the last chunk of a structured reply to a failed read, or, without an error, to a read of 0 bytes."""
    if not error:
        return _CHUNK.pack(STRUCTURED_MAGIC, DONE, ChunkType.NONE, cookie, 0)
    return _CHUNK.pack(STRUCTURED_MAGIC, DONE, ChunkType.ERROR, cookie, 6) + struct.pack(">IH", error, 0)
