"""Conditions on the fields of events, such as ``ring.written > 1000``.

Fields have the names that display filters of Wireshark use, see `vnet.capture.dissector`; "vnet." may be left out.
Those of frames are ``frame.size`` and so on.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from drivers.contracts.events import RECORDS, Event, Source
from vnet.capture.fields import FieldKind, Layout, Nested, Scalar, Text, innermost
from vnet.capture.payload import LAYOUTS, SOURCE, field_prefix

__all__ = ["Filter", "filter_fields", "matcher", "may_match", "parse_filter"]

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(rf"\s*(?:vnet\.)?([a-z_.]+?)\s*({'|'.join(OPERATORS)})\s*(.+?)\s*")
TRUTH: Mapping[str, bool] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@attrs.frozen
class Filter:
    """A condition: a field, a comparison, and a value of the field's type."""

    field: str
    """Name of the field, without "vnet."."""
    comparison: str
    value: object


def _layout(kind: type[Event]) -> Layout:
    return LAYOUTS[kind] if kind in LAYOUTS else Layout(kind, ("time", "source", "pieces", "header"))


def _own_fields(kind: type[Event]) -> Mapping[str, str]:
    """Return the names of a record's own fields, by their names in conditions."""
    return {f"{field_prefix(kind.topic)}.{name}": name for name in _layout(kind).fields}


def filter_fields() -> Mapping[str, FieldKind]:
    """Return the fields that conditions may name, with the kind of their values."""
    fields: dict[str, FieldKind] = dict(SOURCE.fields)
    for kind in RECORDS.values():
        fields |= {name: innermost(_layout(kind).fields[own]) for name, own in _own_fields(kind).items()}
    return {name: kind for name, kind in fields.items() if not isinstance(kind, Nested)}


def parse_filter(text: str) -> Filter:
    """Return the condition in a text. Raises ValueError, whose message lists what there is."""
    parsed = _CONDITION.fullmatch(text)
    if parsed is None:
        raise ValueError(f"filter {text!r}: must be a field, one of {' '.join(OPERATORS)}, and a value")
    field, comparison, value = parsed.groups()
    fields = filter_fields()
    if field not in fields:
        raise ValueError(f"filter {text!r}: field {field!r}: must be one of {', '.join(sorted(fields))}")
    try:
        return Filter(field, comparison, _value(fields[field], value))
    except ValueError as exc:
        raise ValueError(f"filter {text!r}: {exc}") from None


def _value(kind: FieldKind, text: str) -> object:
    """Return the value in a text. Raises ValueError."""
    match kind:
        case Scalar("?"):
            if text.lower() not in TRUTH:
                raise ValueError(f"{text!r}: must be one of {', '.join(TRUTH)}")
            return TRUTH[text.lower()]
        case Scalar("Q"):
            try:
                return int(text, 0)
            except ValueError:
                raise ValueError(f"{text!r}: must be a number") from None
        case Scalar("d"):
            return float(text)
        case Text(False):
            return text.strip("\"'")
    raise ValueError("this field has no values to compare with")


def may_match(kind: type[Event], source: Source, filters: Iterable[Filter]) -> bool:
    """Return whether an event of this kind and place can meet all conditions: `matcher` then decides.

    Those on the place hold, and the kind has the fields of the others.
    """
    own = _own_fields(kind)
    return all(
        OPERATORS[each.comparison](getattr(source, each.field), each.value)
        if each.field in SOURCE.fields
        else each.field in own
        for each in filters
    )


def matcher(kind: type[Event], filters: Iterable[Filter]) -> Callable[[Event], bool] | None:
    """Return the function that tells whether an event of a kind meets the conditions on its own fields; None: always.

    A field whose value is None meets none.
    """
    own = _own_fields(kind)
    conditions = tuple(
        (operator.attrgetter(own[each.field]), OPERATORS[each.comparison], each.value)
        for each in filters
        if each.field in own
    )
    if not conditions:
        return None

    def matches(event: Event) -> bool:
        for read, compare, value in conditions:
            actual = read(event)
            if isinstance(actual, tuple | list):
                if not any(compare(each, value) for each in actual):
                    return False
            elif actual is None or not compare(actual, value):
                return False
        return True

    return matches
