"""Wireshark itself reads captures: every field of every kind of event, frames with what options tell, and losses."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import attrs
import pytest

from drivers.contracts.events import Event
from support.captures import EVENT_NAMES, SOURCE, event, frame, record
from support.machine import RequireTool
from support.wireshark import dissect, tshark
from vnet.capture.dissector import field_names
from vnet.capture.filters import filter_fields
from vnet.capture.payload import DISSECTORS, LAYOUTS


@pytest.fixture(autouse=True)
def _tshark(require_tool: RequireTool) -> None:
    require_tool("tshark")


def expected(made: Event) -> dict[str, list[str]]:
    """The values that Wireshark shows of an event, by its names of their fields."""
    prefix = f"vnet.{DISSECTORS[made.topic].removeprefix('vnet-').replace('-', '_')}"
    values: dict[str, list[str]] = {}

    def add(name: str, value: Any, hexadecimal: bool) -> None:
        if isinstance(value, tuple):
            for each in value:
                add(name, each, hexadecimal)
        elif attrs.has(type(value)):
            for field in attrs.fields(type(value)):
                add(f"{name}.{field.name}", getattr(value, field.name), bool(field.metadata))
        elif isinstance(value, bool):
            values.setdefault(name, []).append(str(int(value)))
        elif isinstance(value, int):
            values.setdefault(name, []).append(f"{value:#018x}" if hexadecimal else str(value))
        else:
            values.setdefault(name, []).append(f"{value:g}" if isinstance(value, float) else value)

    layout = LAYOUTS[type(made)]
    for name in layout.fields:
        add(f"{prefix}.{name}", getattr(made, name), name in layout.hexadecimal)
    for name, value in attrs.asdict(made.source).items():
        add(f"vnet.{name}", value, hexadecimal=False)
    return values | {"vnet.event": [type(made).__name__]}


def test_every_field_of_every_kind_of_event_is_shown(tmp_path: Path) -> None:
    events = [event(name) for name in EVENT_NAMES]
    capture = tmp_path / "all.pcapng"
    capture.write_bytes(record(events))
    packets = dissect(capture, field_names())
    assert packets == [expected(each) for each in events]
    assert {name for packet in packets for name in packet} == set(field_names())


def test_display_filters_and_those_of_captures_have_the_same_names(tmp_path: Path) -> None:
    capture = tmp_path / "some.pcapng"
    capture.write_bytes(record([event("ChainAdded", chain=chain) for chain in range(10)]))
    assert len(tshark(capture, "-Y", 'vnet.ring.chain > 4 and vnet.queue == "transmitq1"').splitlines()) == 5
    # One that Wireshark does not know is an error that names it.
    names = [f"vnet.{name}" for name in filter_fields() if not name.startswith("frame.")]
    assert len(tshark(capture, "-Y", " or ".join(names)).splitlines()) == 10


def test_the_list_of_packets_tells_place_and_fields(tmp_path: Path) -> None:
    capture = tmp_path / "one.pcapng"
    capture.write_bytes(record([event("Notified", kind="kick", outcome="sent", published=5)]))
    shown = tshark(capture).split(maxsplit=4)
    assert shown[2:4] == ["rc", "→"]
    assert shown[4].strip().endswith(
        "net0 pcie0 driver transmitq1: notified (kind kick, outcome sent, published 5)"
    )  # fmt: skip


def test_an_event_of_another_version_is_marked_and_shows_no_wrong_fields(tmp_path: Path) -> None:
    capture = tmp_path / "other.pcapng"
    capture.write_bytes(record([event("Notified")]).replace(b"Notified", b"Modified"))
    assert "Modified of another version" in tshark(capture)
    (packet,) = dissect(capture, field_names())
    assert packet == {"vnet.event": ["Modified"]}


def test_frames_are_ethernet_with_direction_number_and_comment(tmp_path: Path) -> None:
    header = struct.pack("<BBHHHHH", 1, 1, 66, 1448, 34, 16, 1)
    capture = tmp_path / "frames.pcapng"
    capture.write_bytes(record([frame(header=header), frame("FrameSent", number=8)]))
    names = ("eth.src", "frame.packet_flags_direction", "frame.packet_id", "frame.comment", "frame.interface_name")
    received, sent = dissect(capture, names)
    assert received == {
        "eth.src": ["02:00:00:00:00:01"],
        "frame.packet_flags_direction": ["0x00000001"],
        "frame.packet_id": ["7"],
        "frame.comment": [
            (
                "transmitq1, chain 3; checksum needed from byte 34, at 50; "
                "TCP over IPv4 to segment by 1448 bytes, headers 66 bytes"
            )
        ],
        "frame.interface_name": ["net0.driver"],
    }
    assert (sent["frame.packet_flags_direction"], sent["frame.packet_id"]) == (["0x00000002"], ["8"])
    assert SOURCE.device in sent["frame.interface_name"][0]
