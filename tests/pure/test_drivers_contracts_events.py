"""The records of what happens in a system, one class per kind of event."""

from __future__ import annotations

from drivers.contracts.events import NO_EVENTS, Event, Topic


def test_every_kind_of_event_belongs_to_a_topic_and_every_topic_has_kinds() -> None:
    assert {kind.topic for kind in Event.__subclasses__()} == set(Topic)


def test_code_outside_any_system_has_no_listener_of_any_topic() -> None:
    assert [getattr(NO_EVENTS, topic.value.replace("-", "_")) for topic in Topic] == [None] * len(Topic)
