"""Views as plain data for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import attrs

__all__ = ["INLINE", "KEY", "to_plain"]

INLINE = {"inline": True}
"""Metadata of a field whose own keys stand beside those of the record, and replace none of them."""
SCALARS = frozenset({type(None), bool, int, float, str})
"""Types of most values, which are looked up first."""
KEY = "key"
"""Metadata entry with the key of a field that is not named like the field."""


def to_plain(value: object) -> Any:
    """Return a view, or any part of one, as dicts, lists and scalars; bytes as hex digits."""
    record: type = type(value)
    if record in SCALARS or isinstance(value, str | int | float):
        return value
    fields = _fields(record)
    if fields is not None:
        plain: dict[str, Any] = {}
        for name, key in fields:
            part = getattr(value, name)
            if part.__class__ not in SCALARS:
                part = to_plain(part)
            if key is None:
                own = {key for _, key in fields}
                plain.update({inner: each for inner, each in part.items() if inner not in own})
            else:
                plain[key] = part
        return plain
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [to_plain(part) for part in value]
    return value


@cache
def _fields(record: type) -> tuple[tuple[str, str | None], ...] | None:
    """Return the name of each field and its key, None for an inline one; None if ``record`` is no record."""
    if not attrs.has(record):
        return None
    return tuple(
        (field.name, None if "inline" in field.metadata else field.metadata.get(KEY, field.name))
        for field in attrs.fields(record)
    )
