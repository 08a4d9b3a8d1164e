"""How the fields of a record become bytes: derived from the record's annotations, for both directions.

Integers have 8 bytes, little-endian; texts, bytes and sequences begin with their length. The Wireshark dissector is
generated from the same fields, see `vnet.capture.dissector`.
"""

from __future__ import annotations

import struct
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from operator import attrgetter
from typing import Any, Literal, NewType, Protocol, Union, get_args, get_origin, get_type_hints

import attrs

from drivers.contracts.events import HEX

__all__ = ["Choice", "FieldKind", "Layout", "Many", "Nested", "Optional", "Scalar", "Text", "innermost"]

_COUNT = struct.Struct("<H")
_LENGTH = struct.Struct("<I")
WORD = (1 << 64) - 1


class FieldKind(Protocol):
    """Bytes of one field."""

    def emit(self, value: Any, /) -> bytes: ...

    def parse(self, data: bytes, at: int, /) -> tuple[Any, int]:
        """Return the value at an offset, and the offset behind it. Raises struct.error, IndexError, ValueError."""


@attrs.frozen
class Scalar:
    """A number of fixed size."""

    code: Literal["Q", "d", "?"]
    """Format of `struct`."""

    def emit(self, value: Any) -> bytes:
        return struct.pack("<" + self.code, value & WORD if self.code == "Q" else value)

    def parse(self, data: bytes, at: int) -> tuple[Any, int]:
        return struct.unpack_from("<" + self.code, data, at)[0], at + struct.calcsize("<" + self.code)


@attrs.frozen
class Text:
    """A text in UTF-8, with lone surrogates as escapes such as \\ud800; or bytes if it is ``raw``."""

    raw: bool = False

    def emit(self, value: Any) -> bytes:
        data: bytes = value if self.raw else value.encode(errors="backslashreplace")
        return _LENGTH.pack(len(data)) + data

    def parse(self, data: bytes, at: int) -> tuple[Any, int]:
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            raise IndexError("a text ends behind its record")
        part = data[start:end]
        return (part if self.raw else part.decode()), end


@attrs.frozen
class Choice:
    """A member of an enumeration, as its value, which is a text."""

    members: type[Enum]

    def emit(self, value: Any) -> bytes:
        return _TEXT.emit(value.value)

    def parse(self, data: bytes, at: int) -> tuple[Any, int]:
        value, at = _TEXT.parse(data, at)
        return self.members(value), at


@attrs.frozen
class Optional:
    """A value, or None."""

    inner: FieldKind

    def emit(self, value: Any) -> bytes:
        return b"\0" if value is None else b"\1" + self.inner.emit(value)

    def parse(self, data: bytes, at: int) -> tuple[Any, int]:
        return self.inner.parse(data, at + 1) if data[at] else (None, at + 1)


@attrs.frozen
class Many:
    """A sequence of at most 65,535 values; further ones are left out."""

    inner: FieldKind

    def emit(self, value: Any) -> bytes:
        values = value[:0xFFFF]
        return _COUNT.pack(len(values)) + b"".join(map(self.inner.emit, values))

    def parse(self, data: bytes, at: int) -> tuple[Any, int]:
        (count,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        values = []
        for _ in range(count):
            value, at = self.inner.parse(data, at)
            values.append(value)
        return tuple(values), at


def innermost(kind: FieldKind) -> FieldKind:
    """Return the kind of the values within optional fields and sequences."""
    return innermost(kind.inner) if isinstance(kind, Optional | Many) else kind


class Layout:
    """Bytes of the fields of a record class: numbers of fixed size first, packed at once, then the others."""

    def __init__(self, record: type[Any], skip: Sequence[str] = ()) -> None:
        """Leave out the fields ``skip``. Raises TypeError for a field whose type has no bytes here."""
        self.record = record
        hints = get_type_hints(record)
        kinds = {field.name: _kind(hints[field.name]) for field in attrs.fields(record) if field.name not in skip}
        fixed = {name: kind for name, kind in kinds.items() if isinstance(kind, Scalar)}
        self._others = {name: kind for name, kind in kinds.items() if name not in fixed}
        self.fields: Mapping[str, FieldKind] = {**fixed, **self._others}
        """Kinds by name, in the order of their bytes."""
        self.hexadecimal = frozenset(field.name for field in attrs.fields(record) if field.metadata == HEX)
        """Names of the fields that people read as hexadecimal."""
        self._struct = struct.Struct("<" + "".join(kind.code for kind in fixed.values()))
        self._names = tuple(fixed)
        self._get = attrgetter(*fixed) if fixed else None

    def emit(self, record: Any) -> bytes:
        """Return the bytes of a record. An integer that needs more than 64 bits loses the upper ones."""
        get = self._get
        if get is None:
            data = b""
        else:
            try:
                data = self._struct.pack(*get(record)) if len(self._names) > 1 else self._struct.pack(get(record))
            except struct.error:
                data = b"".join(self.fields[name].emit(getattr(record, name)) for name in self._names)
        for name, kind in self._others.items():
            data += kind.emit(getattr(record, name))
        return data

    def parse(self, data: bytes, at: int) -> tuple[dict[str, Any], int]:
        """Return the values at an offset by name, and the offset behind them.

        Raises struct.error, IndexError, ValueError.
        """
        values = dict(zip(self._names, self._struct.unpack_from(data, at), strict=True))
        at += self._struct.size
        for name, kind in self._others.items():
            values[name], at = kind.parse(data, at)
        return values, at


@attrs.frozen
class Nested:
    """The fields of a record within another one."""

    layout: Layout

    def emit(self, value: Any) -> bytes:
        return self.layout.emit(value)

    def parse(self, data: bytes, at: int) -> tuple[Any, int]:
        values, at = self.layout.parse(data, at)
        return self.layout.record(**values), at


_TEXT = Text()
_SCALARS: Mapping[object, FieldKind] = {
    bool: Scalar("?"),
    int: Scalar("Q"),
    float: Scalar("d"),
    str: _TEXT,
    bytes: Text(raw=True),
}


def _kind(hint: Any) -> FieldKind:
    """Return the kind of an annotation. Raises TypeError for one that has none."""
    if isinstance(hint, NewType):
        return _kind(hint.__supertype__)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Choice(hint)
    if attrs.has(hint):
        return Nested(Layout(hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _kind(type(arguments[0]))
    if origin in {Union, types.UnionType} and types.NoneType in arguments and len(arguments) == 2:
        (inner,) = (each for each in arguments if each is not types.NoneType)
        return Optional(_kind(inner))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return Many(_kind(arguments[0]))
    raise TypeError(f"a field of type {hint} has no bytes in a capture")
