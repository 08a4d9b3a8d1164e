"""Views as plain data for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

__all__ = ["INLINE", "KEY", "to_plain"]

INLINE = {"inline": True}
"""Metadata of a field whose own keys stand beside those of the record."""
KEY = "key"
"""Metadata entry with the key of a field that is not named like the field."""


def to_plain(value: object) -> Any:
    """Return a view, or any part of one, as dicts, lists and scalars; bytes as hex digits."""
    record = type(value)
    if attrs.has(record):
        plain: dict[str, Any] = {}
        for field in attrs.fields(record):
            part = to_plain(getattr(value, field.name))
            plain.update(part if "inline" in field.metadata else {field.metadata.get(KEY, field.name): part})
        return plain
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(part) for part in value]
    return value
