"""Records as payloads of packets, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.contracts.events import RECORDS, Event, FeaturesNegotiated, StatusChanged, Topic
from support.captures import EVENT_NAMES, SOURCE, event
from vnet.capture.fields import Layout
from vnet.capture.payload import DISSECTORS, NotAnEvent, emit_body, emit_start, parse_payload


def emit(made: Event) -> bytes:
    return emit_start(type(made), made.source) + emit_body(made)


def test_every_topic_but_frames_has_a_dissector() -> None:
    assert set(DISSECTORS) == set(Topic) - {Topic.FRAMES}
    assert len(set(DISSECTORS.values())) == len(DISSECTORS)


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_an_event_is_read_back(name: str) -> None:
    made = event(name, 2.5)
    payload = emit(made)
    assert parse_payload(payload, 2.5) == made
    dissector = DISSECTORS[made.topic].encode()
    assert payload.startswith(b"\0\x0c\0" + bytes([len(dissector) + (-len(dissector) & 3)]) + dissector)


@pytest.mark.parametrize("name", [name for name in EVENT_NAMES if "| None" in str(RECORDS[name].__annotations__)])
def test_a_field_that_may_be_absent_is_read_back_without_a_value(name: str) -> None:
    absent: dict[str, Any] = {field.name: None for field in attrs.fields(RECORDS[name]) if "None" in str(field.type)}
    assert absent
    made = event(name, **absent)
    assert parse_payload(emit(made), 1.0) == made


def test_bits_above_64_are_left_out() -> None:
    made = FeaturesNegotiated(1.0, SOURCE, 1 << 70 | 5, 3, ("A",))
    assert parse_payload(emit(made), 1.0) == attrs.evolve(made, offered=5)


def test_an_event_of_another_version_is_refused() -> None:
    payload = emit(StatusChanged(1.0, SOURCE, 15))
    with pytest.raises(NotAnEvent, match="StatusChanged of another version"):
        parse_payload(payload[:24] + bytes([payload[24] ^ 1]) + payload[25:], 1.0)
    with pytest.raises(NotAnEvent, match="StatusShunned of another version"):
        parse_payload(payload.replace(b"StatusChanged", b"StatusShunned"), 1.0)


@given(st.sampled_from(EVENT_NAMES), st.data())
def test_damaged_events_are_refused_without_another_error(name: str, data: st.DataObject) -> None:
    payload = bytearray(emit(event(name)))
    cut = data.draw(st.integers(0, len(payload)))
    with pytest.raises(NotAnEvent):
        parse_payload(bytes(payload[:cut]) if cut < len(payload) else b"", 1.0)
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        parse_payload(bytes(payload), 1.0)
    except NotAnEvent:
        pass


def test_a_field_without_a_layout_is_a_mistake_of_the_record() -> None:
    @attrs.frozen
    class Wild:
        field: Mapping[str, int]

    with pytest.raises(TypeError, match="no bytes in a capture"):
        Layout(Wild)
