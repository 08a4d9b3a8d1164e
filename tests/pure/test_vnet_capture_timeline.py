"""Timelines have the keys that the Trace Event format requires, a lane for each kind of place, and arrows per frame."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from drivers.contracts.events import Event, Source
from support.captures import EVENT_NAMES, captured, event, frame
from vnet.capture import timeline
from vnet.capture.timeline import Timeline, lane

DEVICE = Source("ep", "net0", "device", "transmitq1", "pcie0")
LINK = Source("rc", "net0", "driver", "transmitq1", "pcie0")
REQUIRED = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
    **{phase: {"name", "cat", "id", "pid", "tid", "ts", "bp"} for phase in "stf"},
}
"""Keys by phase, beside the phase itself."""


def draw(events: Iterable[Event]) -> list[dict[str, Any]]:
    parts = list[str]()
    drawn = Timeline(parts.append)
    for each in captured(events):
        drawn.add(each)
    drawn.close()
    trace = json.loads("".join(parts))
    assert trace["displayTimeUnit"] == "ns"
    entries: list[dict[str, Any]] = trace["traceEvents"]
    assert all(set(each) == REQUIRED[each["ph"]] | {"ph"} for each in entries)
    return entries


def lanes(entries: list[dict[str, Any]]) -> dict[tuple[int, int], tuple[str, str]]:
    """Names of process and thread by their numbers."""
    meta = [each for each in entries if each["ph"] == "M"]
    processes = {each["pid"]: each["args"]["name"] for each in meta if each["name"] == "process_name"}
    threads = [each for each in meta if each["name"] == "thread_name"]
    return {(each["pid"], each["tid"]): (processes[each["pid"]], each["args"]["name"]) for each in threads}


def life() -> list[Event]:
    """A frame on its way: in, into the ring, kick, doorbell, out of the ring, read, out, back, and its interrupt."""
    return [
        frame(time=0.0),
        event("ChainAdded", 1e-6, chain=3, frame=7),
        event("Notified", 2e-6, kind="kick", outcome="sent", published=4),
        event("RegisterAccessed", 3e-6, doorbell=True, published=4, request=20),
        event("TlpSent", 4e-6, LINK, request=20),
        event("ChainTaken", 5e-6, DEVICE, chain=3, frame=None),
        event("DmaMoved", 6e-6, DEVICE, chain=3, frame=7),
        frame("FrameSent", 7e-6, DEVICE),
        event("ChainCompleted", 8e-6, DEVICE, chain=3, frame=7),
        event("InterruptSent", 9e-6, DEVICE, published=4, request=21),
        event("ChainReturned", 10e-6, chain=3, frame=7),
    ]


def test_an_empty_timeline_is_valid() -> None:
    assert draw([]) == []


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_each_kind_of_event_is_a_slice_in_a_lane(name: str) -> None:
    made = event(name)
    entries = draw([made])
    (drawn,) = [each for each in entries if each["ph"] == "X"]
    process = "link pcie0" if name == "TlpSent" else "host rc"
    assert lanes(entries)[drawn["pid"], drawn["tid"]] == (process, lane(made))
    assert drawn["args"]["device"] == "net0"


def test_each_event_of_a_frame_is_in_the_lane_of_its_place() -> None:
    entries = draw(life())
    names = lanes(entries)
    places = [names[each["pid"], each["tid"]] for each in sorted(entries, key=lambda each: each.get("ts", -1))
              if each["ph"] == "X"]  # fmt: skip
    assert places == [
        ("host rc", "port vnet0"),
        ("host rc", "ring net0 transmitq1"),
        ("host rc", "doorbells"),
        ("host rc", "doorbells"),
        ("link pcie0", "requests"),
        ("host ep", "ring net0 transmitq1"),
        ("host ep", "DMA"),
        ("host ep", "port net0"),
        ("host ep", "ring net0 transmitq1"),
        ("host ep", "interrupts"),
        ("host rc", "ring net0 transmitq1"),
    ]


def test_arrows_join_all_events_of_a_frame_in_order() -> None:
    arrows = [each for each in draw(life()) if each["ph"] in "stf"]
    assert [each["ph"] for each in arrows] == ["s", *"t" * 9, "f"]
    assert [round(each["ts"]) for each in arrows] == list(range(11))
    assert {each["id"] for each in arrows} == {7}


def test_an_event_alone_has_no_arrow() -> None:
    assert [each["ph"] for each in draw([frame(), event("ChainAdded", chain=9, frame=None)]) if each["ph"] != "M"] == [
        "X",
        "X",
    ]


def test_slices_of_a_lane_do_not_overlap() -> None:
    times = (0, 100, 100, 5000, 5300)
    entries = draw([event("ChainAdded", time / 1e9) for time in times])
    slices = sorted((each["ts"], each["dur"]) for each in entries if each["ph"] == "X")
    assert slices == [(0, 0.1), (0.1, 0), (0.1, 1), (5, 0.3), (5.3, 1)]


def test_the_memory_of_frames_and_chains_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "FRAMES", 4)
    monkeypatch.setattr(timeline, "KEYS", 4)
    drawn = Timeline(lambda text: None)
    made = [event("ChainAdded", number, chain=number, frame=number) for number in range(100)]
    for each in captured(made):
        drawn.add(each)
    assert (len(drawn._flows), len(drawn._frames)) == (4, 4)
