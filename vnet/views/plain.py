"""Views as plain data for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

__all__ = ["INLINE", "KEY", "to_plain"]

INLINE = {"inline": True}
"""Metadata of a field whose own keys stand beside those of the record, and replace none of them."""
KEY = "key"
"""Metadata entry with the key of a field that is not named like the field."""


def to_plain(value: object) -> Any:
    """Return a view, or any part of one, as dicts, lists and scalars; bytes as hex digits."""
    record = type(value)
    if attrs.has(record):
        plain: dict[str, Any] = {}
        keys = {field.name: field.metadata.get(KEY, field.name) for field in attrs.fields(record)}
        own = {keys[field.name] for field in attrs.fields(record) if "inline" not in field.metadata}
        for field in attrs.fields(record):
            part = to_plain(getattr(value, field.name))
            if "inline" in field.metadata:
                plain.update({key: inner for key, inner in part.items() if key not in own})
            else:
                plain[keys[field.name]] = part
        return plain
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(part) for part in value]
    return value
