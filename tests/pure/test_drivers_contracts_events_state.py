"""The records of what happens in a system, one class per kind of event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_origin

import attrs
import pytest

from drivers.contracts.events import HEX, NO_EVENTS, RECORDS, Buffer, Event, Source, Topic


def test_every_kind_of_event_belongs_to_a_topic_and_every_topic_has_kinds() -> None:
    assert {kind.topic for kind in RECORDS.values()} == set(Topic)


def test_code_outside_any_system_has_no_listener_of_any_topic() -> None:
    assert [getattr(NO_EVENTS, topic.value.replace("-", "_")) for topic in Topic] == [None] * len(Topic)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in RECORDS.items()])
def test_the_fields_of_each_record_can_be_read_by_a_program(kind: type[Event]) -> None:
    fields = attrs.fields_dict(attrs.resolve_types(kind))
    assert list(fields)[:2] == ["time", "source"]
    simple = {int, str, bool, bytes, float, int | None, Source}
    repeated = (Sequence[str], Sequence[Buffer], Sequence[memoryview])
    for name, field in fields.items():
        assert field.type in simple or field.type in repeated or get_origin(field.type) is Literal, name
        assert field.metadata != HEX or field.type in (int, int | None), name
