"""Events of a capture as records again, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from drivers.contracts.events import Event, FrameEvent, Source
from vnet.capture.dissector import title
from vnet.capture.fields import FieldKind, Layout, Many, Nested, Optional, Scalar
from vnet.capture.frames import parse_frame
from vnet.capture.payload import LAYOUTS, parse_payload
from vnet.capture.pcapng import PacketBlock
from vnet.capture.recorder import ETHERNET

__all__ = ["Captured", "fields_in_words", "parse_packet", "place"]


@attrs.frozen
class Captured:
    """An event of a capture."""

    time: int
    """Nanoseconds since 1970."""
    event: Event
    header: str = ""
    """Meaning of the virtio_net_hdr of a frame, in words; empty if it has none."""


def parse_packet(packet: PacketBlock) -> Captured:
    """Return the event of a packet. Raises ValueError if this version did not make it."""
    if packet.interface.link_type == ETHERNET:
        return Captured(packet.time, *parse_frame(packet))
    return Captured(packet.time, parse_payload(packet.data, packet.time / 1e9))


def place(source: Source) -> str:
    """Return the place of an event, such as net0.driver.transmitq1."""
    return ".".join(filter(None, (source.device, source.side, source.queue))) or source.link or source.host or "vnet"


def fields_in_words(captured: Captured) -> Mapping[str, str]:
    """Return the fields of an event that have a value, by name, as people read them."""
    event = captured.event
    if isinstance(event, FrameEvent):
        words = {"frame": str(event.frame), "chain": "" if event.chain is None else str(event.chain)}
        words |= {"size": str(event.size), "header": captured.header}
    else:
        words = _words(LAYOUTS[type(event)], event)
    return {name: text for name, text in words.items() if text}


def _words(layout: Layout, record: Any) -> dict[str, str]:
    return {
        name: _word(kind, getattr(record, name), name in layout.hexadecimal) for name, kind in layout.fields.items()
    }


def _word(kind: FieldKind, value: Any, hexadecimal: bool) -> str:
    match kind:
        case Optional(inner):
            return "" if value is None else _word(inner, value, hexadecimal)
        case Many(inner):
            return f"[{', '.join(_word(inner, each, hexadecimal) for each in value)}]"
        case Nested(layout):
            return f"({', '.join(f'{name} {word}' for name, word in _words(layout, value).items())})"
        case Scalar("?"):
            return "yes" if value else "no"
        case Scalar("Q"):
            return f"{value:#x}" if hexadecimal else str(value)
    return str(value)


def name_in_words(event: Event) -> str:
    """Return the kind of an event, such as "chain added"."""
    return title(type(event).__name__)
