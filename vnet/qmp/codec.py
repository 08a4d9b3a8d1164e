"""Framing and parsing of QEMU's machine protocol (QMP), without I/O: a stream of JSON objects.

The server sends a greeting; the client sends `NEGOTIATE` first, then commands, which are answered in order. An object
of the client ends at its closing brace or at a newline, whichever is first: stock clients send no newline, and a
newline lets a client that sent half an object start again. Each object of the server is a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial

import attrs

__all__ = [
    "NEGOTIATE",
    "Framer",
    "LineFramer",
    "QmpError",
    "QmpRequest",
    "TooLong",
    "emit",
    "not_found",
    "parse",
    "request",
]

NEGOTIATE = "qmp_capabilities"
"""The command that must come first."""
_TOKEN = re.compile(rb'\\.|[{}"\n]')
_MEMBERS = ("execute", "arguments", "id")


class TooLong(Exception):
    """A message exceeds the limit; the start of the next message is unknown."""


class QmpError(Exception):
    """A failed command: a sentence, and an error class of QMP."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.kind = kind

    def as_dict(self) -> dict[str, object]:
        """Return the error message of QMP."""
        return {"error": {"class": self.kind, "desc": self.desc}}


not_found = partial(QmpError, kind="DeviceNotFound")
"""Makes the error for an unknown device or link."""


def _check(size: int, limit: int) -> None:
    """Raise TooLong if a message, or the start of one, is larger than the limit."""
    if size > limit:
        raise TooLong(f"a message may have at most {limit} bytes")


class Framer:
    """A splitter of a client's bytes into messages of at most ``limit`` bytes. It takes a step per quote and brace."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._at = 0
        self._depth = 0
        self._quoted = False

    @property
    def partial(self) -> bool:
        """Whether the start of a message waits for its end."""
        return bool(self._rest.strip())

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add ``data`` and yield the complete messages. Raises TooLong at the first message above the limit."""
        self._rest += data
        while (token := _TOKEN.search(self._rest, self._at)) is not None:
            self._at = token.end()
            end = token[0] == b"\n"
            if token[0] == b'"':
                self._quoted = not self._quoted
            elif token[0] in (b"{", b"}") and not self._quoted:
                self._depth += 1 if token[0] == b"{" else -1
                end = self._depth <= 0
            if end:
                message, self._rest = self._rest[: self._at].strip(), self._rest[self._at :]
                self._at, self._depth, self._quoted = 0, 0, False
                _check(len(message), self._limit)
                if message:
                    yield message
        # A backslash at the end may escape the next byte.
        self._at = max(self._at, len(self._rest) - self._rest.endswith(b"\\"))
        _check(len(self._rest), self._limit)


class LineFramer:
    """A splitter of a server's bytes into messages of at most ``limit`` bytes, which may be large."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._at = 0

    @property
    def rest(self) -> bytes:
        """Bytes behind the last complete message."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add ``data`` and yield the complete messages. Raises TooLong at the first message above the limit."""
        self._rest += data
        while (end := self._rest.find(b"\n", self._at)) >= 0:
            message, self._at = bytes(self._rest[:end]).strip(), 0
            del self._rest[: end + 1]
            _check(len(message), self._limit)
            if message:
                yield message
        self._at = len(self._rest)
        _check(self._at, self._limit)


@attrs.frozen
class QmpRequest:
    """A command of a client."""

    execute: str
    """Name of the command."""
    arguments: Mapping[str, object]


def parse(message: bytes) -> dict[str, object]:
    """Return the JSON object in ``message``. Raises QmpError."""
    try:
        value = json.loads(message.decode())
    except RecursionError:
        raise QmpError("too many objects and arrays in one message") from None
    except ValueError:
        raise QmpError("Invalid JSON syntax") from None
    if not isinstance(value, dict):
        raise QmpError("QMP input must be a JSON object")
    return value


def request(raw: Mapping[str, object]) -> QmpRequest:
    """Return the command in a JSON object. Raises QmpError."""
    for key in raw:
        if key not in _MEMBERS:
            raise QmpError(f"QMP input member '{key}' is unexpected")
    if "execute" not in raw:
        raise QmpError("QMP input lacks member 'execute'")
    execute, arguments = raw["execute"], raw.get("arguments", {})
    if not isinstance(execute, str):
        raise QmpError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise QmpError("QMP input member 'arguments' must be an object")
    return QmpRequest(execute, arguments)


def emit(message: Mapping[str, object]) -> bytes:
    """Return a message as a line of JSON; a value that JSON does not know as text."""
    return json.dumps(message, default=str).encode() + b"\r\n"
