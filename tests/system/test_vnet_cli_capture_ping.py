"""One real ping in a capture: its whole way across both rings, in order, in Wireshark, and joined on the timeline."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from drivers.contracts.events import Event
from support.captures import blocks
from support.capturing import capturing
from support.cli import Up
from support.machine import RequireTool
from support.wireshark import tshark
from vnet.capture.captured import Captured, parse_packet
from vnet.capture.pcapng import PacketBlock

REQUEST = [
    ("driver", "FrameReceived"),
    ("driver", "ChainAdded"),
    ("driver", "Notified"),
    ("driver", "RegisterAccessed"),
    ("device", "Notified"),
    ("device", "ChainTaken"),
    ("device", "DmaMoved"),
    ("device", "FrameSent"),
    ("device", "ChainCompleted"),
]
"""Way of the request: side and kind of the events of transmitq1."""
REPLY = [
    ("device", "FrameReceived"),
    ("device", "DmaMoved"),
    ("device", "ChainCompleted"),
    ("device", "Notified"),
    ("device", "InterruptSent"),
    ("driver", "Notified"),
    ("driver", "ChainReturned"),
    ("driver", "FrameSent"),
]
"""Way of the reply: events of receiveq1."""
LANES = {
    "FrameReceived": "port vnet0",
    "ChainAdded": "ring net0 transmitq1",
    "ChainTaken": "ring net0 transmitq1",
    "DmaMoved": "DMA",
    "InterruptSent": "interrupts",
    "RegisterAccessed": "doorbells",
}


def names(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.source.side, type(event).__name__) for event in events]


def is_in_order(expected: list[tuple[str, str]], actual: list[tuple[str, str]]) -> bool:
    """Whether the expected names occur in this order, with any others between."""
    rest = iter(actual)
    return all(name in rest for name in expected)


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_a_ping_is_captured_from_port_to_port_and_back(up: Up, tmp_path: Path, require_tool: RequireTool) -> None:
    require_tool("ping", "tshark")
    file, timeline = tmp_path / "ping.pcapng", tmp_path / "ping.json"
    assert up.exec("rc", "ping", "-c", "1", "-w", "15", "198.18.0.2").returncode == 0, "stations know each other"
    args = ("--name", up.name, "--events", "frames,rings,registers,tlps", "--perfetto", str(timeline), "-w", str(file))
    with capturing(tmp_path / "log", *args) as capture:
        assert up.exec("rc", "ping", "-n", "-c", "1", "-w", "15", "198.18.0.2").returncode == 0
        status, _, text = capture.end()
    assert (status, text.splitlines()[-1].endswith(" 0 lost")) == (0, True)

    captured = [parse_packet(each) for each in blocks(file.read_bytes()) if isinstance(each, PacketBlock)]
    assert all(one.time <= other.time for one, other in pairwise(captured))
    _check_way(captured, "transmitq1", REQUEST)
    _check_way(captured, "receiveq1", REPLY)
    shown = tshark(file, "-Y", "icmp")
    assert shown.count("Echo (ping) request") == shown.count("Echo (ping) reply") == 2
    _check_timeline(json.loads(timeline.read_text(encoding="utf-8"))["traceEvents"])


def _check_way(captured: list[Captured], queue: str, way: list[tuple[str, str]]) -> None:
    events = [each.event for each in captured if each.event.source.queue == queue]
    assert is_in_order(way, names(events)), names(events)


def _check_timeline(entries: list[dict[str, Any]]) -> None:
    threads = {each["tid"]: each["args"]["name"] for each in entries if each["name"] == "thread_name"}
    for name, lane in LANES.items():
        words = {"DmaMoved": "dma moved"}.get(name, "")
        words = words or "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
        assert lane in {threads[each["tid"]] for each in entries if each["ph"] == "X" and each["name"] == words}, name
    arrows: dict[int, list[str]] = {}
    for each in entries:
        if each["ph"] in "stf":
            arrows.setdefault(each["id"], []).append(each["ph"])
    assert len(arrows) >= 2
    assert all(phases == ["s", *"t" * (len(phases) - 2), "f"] for phases in arrows.values())
    assert max(map(len, arrows.values())) >= 8
