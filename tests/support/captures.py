"""Events of all kinds with a value in each field, and captures of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_type_hints

from drivers.contracts.events import RECORDS, Event, FrameEvent, Source, Topic
from vnet.capture.captured import Captured, parse_packet
from vnet.capture.fields import Choice, FieldKind, Many, Nested, Optional, Scalar, Text
from vnet.capture.payload import LAYOUTS
from vnet.capture.pcapng import PacketBlock, PcapngBlock, PcapngReader
from vnet.capture.recorder import Recorder, Selection

__all__ = ["EPOCH", "EVENT_NAMES", "SOURCE", "blocks", "captured", "event", "frame", "record"]

SOURCE = Source("rc", "net0", "driver", "transmitq1", "pcie0", "vnet0")
EPOCH = 1_700_000_000 * 10**9
"""Nanoseconds since 1970 at 0 s of the run's clock."""
DATA = bytes.fromhex("02000000000202000000000188b5") + bytes(range(100))
"""An Ethernet frame of 114 bytes."""


def event(name: str, time: float = 1.0, source: Source = SOURCE, **given: Any) -> Event:
    """The event of this kind; fields that are not given get values of their type, all different."""
    kind = RECORDS[name]
    hints = get_type_hints(kind)
    numbers = itertools.count(1000)
    values = {}
    for field, layout in LAYOUTS[kind].fields.items():
        choices = [each for each in get_args(hints[field]) if isinstance(each, str)]
        values[field] = choices[0] if choices else _value(layout, numbers)
    return kind(time, source, **values | given)


def _value(kind: FieldKind, numbers: Iterator[int]) -> Any:
    match kind:
        case Scalar("Q"):
            return next(numbers)
        case Scalar("?"):
            return next(numbers) % 2 == 0
        case Scalar("d"):
            return next(numbers) + 0.5
        case Text(raw):
            return b"\0\xff" if raw else f"Grüße {next(numbers)}"
        case Choice(members):
            return next(iter(members))
        case Optional(inner):
            return _value(inner, numbers)
        case Many(inner):
            return _value(inner, numbers), _value(inner, numbers)
        case Nested(layout):
            return layout.record(**{name: _value(each, numbers) for name, each in layout.fields.items()})
    raise AssertionError(kind)


def frame(
    name: str = "FrameReceived",
    time: float = 1.0,
    source: Source = SOURCE,
    *,
    number: int = 7,
    chain: int | None = 3,
    header: bytes = bytes(12),
    data: bytes = DATA,
) -> FrameEvent:
    """A frame, in two pieces."""
    pieces = (memoryview(data)[:14], memoryview(data)[14:])
    made = RECORDS[name](time, source, number, chain, header, len(data), pieces)  # type: ignore[call-arg]
    assert isinstance(made, FrameEvent)
    return made


def record(events: Iterable[Event], selection: Selection | None = None) -> bytes:
    """The pcapng of these events."""
    recorder = Recorder("test", selection or Selection(), EPOCH, lambda: None)
    for each in events:
        recorder(each)
    return bytes(recorder.finish(9.0))


def blocks(data: bytes) -> list[PcapngBlock]:
    return list(PcapngReader().feed(data))


def captured(events: Iterable[Event]) -> list[Captured]:
    """The events as a reader of their capture sees them."""
    return [parse_packet(block) for block in blocks(record(events)) if isinstance(block, PacketBlock)]


EVENT_NAMES = tuple(name for name, kind in RECORDS.items() if kind.topic is not Topic.FRAMES)
