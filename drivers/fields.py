"""Fields of records whose values come from a user: their rules, and the error for an invalid value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, time
from typing import Any

import attrs

__all__ = ["PATH_RULE", "FieldError", "Keys", "Must", "dotted", "fits_socket", "is_path", "must", "shown"]

PATH_MAX = 107
"""Longest path of a unix socket in bytes."""
PATH_RULE = f"a socket path of 1 to {PATH_MAX} bytes"
"""Reason given for a bad socket path, after "must be"."""
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
"""A key that needs no quotes in TOML."""
ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
"""Short escapes of characters in a basic string of TOML."""

Keys = tuple[str | int, ...]
"""Keys of tables and indexes of lists that lead to a value."""


def dotted(keys: Keys) -> str:
    """Return the keys as one path, such as devices.scsi0.device.luns[0].size."""
    texts = (f"[{key}]" if isinstance(key, int) else f".{_printable(key)}" for key in keys)
    return "".join(texts).removeprefix(".")


def _printable(key: str) -> str:
    return key if key.isprintable() else _text(key)


def shown(value: object) -> str:
    """Return ``value`` on one line, as a TOML file has it."""
    try:
        return _toml(value)
    except (ValueError, RecursionError):  # a number of too many digits, or tables nested too deeply
        return "a value too long to print"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return value.isoformat() if isinstance(value, date | time) else repr(value)


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    """Return a literal string if it can hold the text, else a basic string with escapes."""
    if text.isprintable() and "'" not in text:
        return f"'{text}'"
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    code = ord(char)
    return char if char.isprintable() else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


class FieldError(ValueError):
    """A record has an invalid ``value`` at ``keys``; a ``value`` of None is a missing one. ``why`` is the reason."""

    def __init__(self, keys: Keys, value: object, why: str) -> None:
        super().__init__(keys, value, why)
        self.keys, self.value, self.why = keys, value, why

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {shown(self.value)}"
        return f"{dotted(self.keys) or 'top level'}{value}: {self.why}"

    def inside(self, *keys: str | int) -> FieldError:
        """Return the same error of the record that has this one at ``keys``."""
        return FieldError((*keys, *self.keys), self.value, self.why)


@attrs.frozen
class Must:
    """A validator for a field of a record. Raises FieldError "must be ``why``"; None always passes."""

    good: Callable[[Any], object]
    """Returns whether a value is valid."""
    why: str | Callable[[], str]
    """Description of the valid values, as it follows "must be"."""

    def __call__(self, _: object, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not self.good(value):
            raise FieldError((field.name,), value, f"must be {self.why if isinstance(self.why, str) else self.why()}")


def must(good: Callable[[Any], object], why: str | Callable[[], str]) -> Any:
    """Return a `Must` validator: ``why`` describes the values for which ``good`` is true, after "must be"."""
    return Must(good, why)


def is_path(path: str) -> bool:
    """Return whether a file can have this path."""
    return bool(path) and "\0" not in path


def fits_socket(path: str) -> bool:
    """Return whether a unix socket can have this path."""
    return is_path(path) and len(path.encode("utf-8", "surrogateescape")) <= PATH_MAX
