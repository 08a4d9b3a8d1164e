"""The kinds of requests and the directions of a link have the names of their fields, and none is left out."""

from __future__ import annotations

from typing import get_type_hints

from vnet.views.link import DirectionTiming, LinkStatistics, LinkTiming, LinkTraffic

CONFIG, DOWNSTREAM, UPSTREAM, MESSAGES = (LinkTraffic(number, 0, 0, 0) for number in range(4))


def fields_of(record: type, kind: type) -> list[str]:
    return [name for name, hint in get_type_hints(record).items() if hint is kind]


def test_every_kind_of_request_has_its_figures() -> None:
    figures = LinkStatistics(True, 1, 0, CONFIG, DOWNSTREAM, UPSTREAM, MESSAGES)
    assert figures.requests == {
        "config": CONFIG,
        "downstream": DOWNSTREAM,
        "upstream": UPSTREAM,
        "messages": MESSAGES,
    }
    assert list(figures.requests) == fields_of(LinkStatistics, LinkTraffic)


def test_both_directions_have_their_figures() -> None:
    down, up = DirectionTiming({"MWr": 1}, 4, 24), DirectionTiming({}, 0, 0)
    timing = LinkTiming(3, 8, 1e9, 5e-7, down, up, 0.0)
    assert timing.directions == {"downstream": down, "upstream": up}
    assert list(timing.directions) == fields_of(LinkTiming, DirectionTiming)
