"""Conditions on fields: what they mean, and one line for what cannot be one."""

from __future__ import annotations

import pytest

from drivers.contracts.events import Event
from support.captures import event, frame
from vnet.capture.dissector import field_names
from vnet.capture.filters import Filter, filter_fields, matcher, may_match, parse_filter


def meets(text: str, made: Event) -> bool:
    filters = [parse_filter(text)]
    matches = matcher(type(made), filters)
    return may_match(type(made), made.source, filters) and (matches is None or matches(made))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("queue == transmitq1", Filter("queue", "==", "transmitq1")),
        ("queue=='transmitq1'", Filter("queue", "==", "transmitq1")),
        ("vnet.ring.chain>=0x10", Filter("ring.chain", ">=", 16)),
        (" tlp.posted != yes ", Filter("tlp.posted", "!=", True)),
        ("frame.size < 100", Filter("frame.size", "<", 100)),
        ("lifecycle.names == CSUM", Filter("lifecycle.names", "==", "CSUM")),
    ],
)
def test_a_condition_has_a_field_a_comparison_and_a_value(text: str, parsed: Filter) -> None:
    assert parse_filter(text) == parsed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ring.chain", "must be a field, one of == != <= >= < >, and a value"),
        ("ring.chain = 5", "must be a field, one of"),
        ("ring.colour == 5", "field 'ring.colour': must be one of control.command, control.outcome, device, "),
        ("ring.chain == five", "'five': must be a number"),
        ("tlp.posted == 5", "'5': must be one of true, yes, 1, false, no, 0"),
        ("ring.buffers == 5", "field 'ring.buffers': must be one of "),
    ],
)
def test_an_invalid_condition_gets_one_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="filter") as caught:
        parse_filter(text)
    assert str(caught.value).startswith(f"filter {text!r}: {why}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "made", "met"),
    [
        ("ring.chain == 5", event("ChainAdded", chain=5), True),
        ("ring.chain != 5", event("ChainAdded", chain=5), False),
        ("ring.chain == 5", event("DmaMoved", chain=5), False),
        ("ring.frame == 5", event("ChainAdded", frame=None), False),
        ("ring.frame != 5", event("ChainAdded", frame=None), False),
        ("ring.kind == call", event("Notified", kind="call"), True),
        ("frame.size > 100", frame(), True),
        ("frame.size > 200", frame(), False),
        ("frame.chain == 3", frame(chain=None), False),
        ("device == net0", frame(), True),
        ("lifecycle.names == CSUM", event("FeaturesNegotiated", names=("MAC", "CSUM")), True),
        ("lifecycle.names == CSUM", event("FeaturesNegotiated", names=()), False),
    ],
)
def test_an_event_without_the_field_or_its_value_does_not_meet_a_condition(text: str, made: Event, met: bool) -> None:
    assert meets(text, made) is met


@pytest.mark.parametrize("filters", [[], [parse_filter("queue == transmitq1"), parse_filter("side == driver")]])
def test_events_need_no_look_without_conditions_on_their_own_fields(filters: list[Filter]) -> None:
    assert matcher(type(event("ChainAdded")), filters) is None


def test_fields_have_the_names_of_the_dissector() -> None:
    own = {f"vnet.{name}" for name in filter_fields() if not name.startswith("frame.")}
    assert own <= set(field_names())
