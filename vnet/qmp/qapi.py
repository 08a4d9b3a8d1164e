"""Records of the protocol: arguments, results and event data, with the member names of QEMU's schema language, QAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from vnet.views.plain import to_plain

__all__ = ["Empty", "Null", "QapiRecord", "member", "to_wire"]


@attrs.frozen
class QapiRecord:
    """Base of records whose members have dashes instead of underscores. A member that is None is left out."""


@attrs.frozen
class Null:
    """Null on the wire."""


@attrs.frozen
class Empty(QapiRecord):
    """No members."""


def member(record: type, field: str) -> str:
    """Return the name of a record's field on the wire."""
    return field.replace("_", "-") if issubclass(record, QapiRecord) else field


def to_wire(value: object) -> Any:
    """Return a record, or any part of one, as dicts, lists and scalars."""
    if isinstance(value, QapiRecord):
        record = type(value)
        parts = ((field.name, getattr(value, field.name)) for field in attrs.fields(record))
        return {member(record, name): to_wire(part) for name, part in parts if part is not None}
    if isinstance(value, Null):
        return None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_wire(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): to_wire(part) for key, part in value.items()}
    return to_plain(value)
