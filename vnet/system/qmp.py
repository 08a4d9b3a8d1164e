"""QEMU's machine protocol, as far as framing and shape go, without I/O: JSON objects, one after the other.

The server greets, `NEGOTIATE` comes first, then any command; each is answered in the order they came. An object
ends at its closing brace or at a newline, whichever is first: stock clients send no newline, and a newline gets
whoever sent half an object back into step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import attrs

__all__ = ["NEGOTIATE", "Framer", "QmpError", "QmpRequest", "TooLong", "emit", "greeting", "parse", "request"]

NEGOTIATE = "qmp_capabilities"
_TOKEN = re.compile(rb'\\.|[{}"\n]')
_MEMBERS = ("execute", "arguments", "id")


class TooLong(Exception):
    """A message has more bytes than were agreed on; what follows can't be told apart from it."""


class QmpError(Exception):
    """A command that can't be carried out: a sentence, and one of QMP's classes of errors."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.kind = kind

    def as_dict(self) -> dict[str, object]:
        return {"error": {"class": self.kind, "desc": self.desc}}


class Framer:
    """Cuts a stream of bytes into messages of at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._at = 0
        self._depth = 0
        self._quoted = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now. Raises TooLong, after those before it."""
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
                self._check(message)
                if message:
                    yield message
        # A backslash at the very end may belong to what comes next.
        self._at = max(self._at, len(self._rest) - self._rest.endswith(b"\\"))
        self._check(self._rest)

    def _check(self, message: bytes) -> None:
        if len(message) > self._limit:
            raise TooLong(f"a message may have at most {self._limit} bytes")


@attrs.frozen
class QmpRequest:
    """One command of a client."""

    execute: str
    arguments: Mapping[str, object]

    def check(self, parameters: Mapping[str, type]) -> None:
        """Raises QmpError unless the arguments are exactly the ``parameters``, given by name and JSON type."""
        for name in self.arguments:
            if name not in parameters:
                raise QmpError(f"Parameter '{name}' is unexpected")
        for name, kind in parameters.items():
            if name not in self.arguments:
                raise QmpError(f"Parameter '{name}' is missing")
            if type(self.arguments[name]) is not kind:
                raise QmpError(f"Invalid parameter type for '{name}', expected: {_TYPES[kind]}")


_TYPES = {str: "string", bool: "boolean"}


def parse(message: bytes) -> dict[str, object]:
    """The JSON object in ``message``. Raises QmpError."""
    try:
        found = json.loads(message.decode())
    except RecursionError:
        raise QmpError("too many objects and arrays in one message") from None
    except ValueError:
        raise QmpError("Invalid JSON syntax") from None
    if not isinstance(found, dict):
        raise QmpError("QMP input must be a JSON object")
    return found


def request(found: Mapping[str, object]) -> QmpRequest:
    """The command that an object is. Raises QmpError."""
    for key in found:
        if key not in _MEMBERS:
            raise QmpError(f"QMP input member '{key}' is unexpected")
    if "execute" not in found:
        raise QmpError("QMP input lacks member 'execute'")
    execute, arguments = found["execute"], found.get("arguments", {})
    if not isinstance(execute, str):
        raise QmpError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise QmpError("QMP input member 'arguments' must be an object")
    return QmpRequest(execute, arguments)


def emit(message: Mapping[str, object]) -> bytes:
    """A message on a line."""
    return json.dumps(message).encode() + b"\r\n"


def greeting(version: str) -> dict[str, object]:
    """What a server says first; ``version`` is its own, in three numbers."""
    major, minor, micro = map(int, version.split(".")[:3])
    numbers = {"major": major, "minor": minor, "micro": micro}
    return {"QMP": {"version": {"qemu": numbers, "package": f"vnet {version}"}, "capabilities": []}}
