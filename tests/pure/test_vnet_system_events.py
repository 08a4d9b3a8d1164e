"""The hub gives each sink the topics that it chose, and is None where no sink listens."""

from __future__ import annotations

import pytest

from drivers.contracts.events import NO_EVENTS, Event, Events, LinkMoved, Source, StatusChanged, Topic
from vnet.system.events import EventHub

SOURCE = Source("rc", "net0")
STATUS = StatusChanged(1.0, SOURCE, 15)
LINK = LinkMoved(2.0, Source("rc", link="pcie0"), True, 1)


def names() -> list[str]:
    return [topic.name.lower() for topic in Topic]


@pytest.mark.parametrize("events", [NO_EVENTS, EventHub()], ids=["none", "hub"])
def test_no_topic_has_an_emitter_while_nothing_listens(events: Events) -> None:
    assert {name: getattr(events, name) for name in names()} == dict.fromkeys(names())


def test_a_sink_takes_the_topics_that_it_chose_until_its_context_ends() -> None:
    hub, taken = EventHub(), list[Event]()
    with hub.listen(taken.append, [Topic.LIFECYCLE]):
        assert hub.links is None
        assert hub.lifecycle is not None
        hub.lifecycle(STATUS)
    assert taken == [STATUS]
    assert hub.lifecycle is None


def test_several_sinks_of_a_topic_take_each_event_in_their_order() -> None:
    hub, taken = EventHub(), list[str]()
    with hub.listen(lambda event: taken.append("first")):
        with hub.listen(lambda event: taken.append("second"), [Topic.LINKS, Topic.LINKS]):
            assert hub.links is not None
            hub.links(LINK)
        assert hub.links is not None
        hub.links(LINK)
    assert taken == ["first", "second", "first"]


def test_a_sink_may_listen_twice() -> None:
    hub, taken = EventHub(), list[Event]()
    with hub.listen(taken.append, [Topic.LINKS]), hub.listen(taken.append, [Topic.LINKS]):
        assert hub.links is not None
        hub.links(LINK)
    assert taken == [LINK, LINK]
    assert hub.links is None
