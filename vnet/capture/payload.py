"""An event as the payload of a packet of link type 252: tags with the dissector's name, then the record.

The tags are those of Wireshark's exported PDUs. The record begins with the checksum of its layout and its name; the
fields of its source and its own follow. Its time is that of the packet.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from drivers.contracts.events import RECORDS, Event, Source, Topic
from vnet.capture.fields import FieldKind, Layout, Nested, Text

__all__ = [
    "CHECKSUMS",
    "DISSECTORS",
    "KINDS",
    "LAYOUTS",
    "SOURCE",
    "NotAnEvent",
    "emit_body",
    "emit_start",
    "field_prefix",
    "parse_payload",
]

DISSECTORS: Mapping[Topic, str] = {
    Topic.LIFECYCLE: "vnet-lifecycle",
    Topic.LOSSES: "vnet-loss",
    Topic.LINKS: "vnet-link",
    Topic.VHOST_USER: "vnet-vhost-user",
    Topic.CONTROL: "vnet-control",
    Topic.RINGS: "vnet-ring",
    Topic.REGISTERS: "vnet-register",
    Topic.TLPS: "vnet-tlp",
}
"""Name of the dissector of each topic. Frames have none: they are Ethernet."""
_TAG = struct.Struct(">HH")
TAG_DISSECTOR = 12
"""Tag with the name of a dissector (EXP_PDU_TAG_DISSECTOR_NAME)."""
_CHECKSUM = struct.Struct("<I")
_NAME = Text()
SOURCE = Layout(Source)
"""Layout of the place of an event."""


def field_prefix(topic: Topic) -> str:
    """Return how the names of the fields of a topic's events begin, without "vnet."; such as ring."""
    return DISSECTORS.get(topic, "vnet-frame").removeprefix("vnet-").replace("-", "_")


class NotAnEvent(ValueError):
    """A payload that this version cannot read."""


KINDS: Mapping[str, type[Event]] = {name: kind for name, kind in RECORDS.items() if kind.topic in DISSECTORS}
"""Classes of all events but frames, by name."""


def _describe(layout: Layout) -> str:
    """Return the names and kinds of a layout's fields, with those of nested ones."""
    return " ".join(f"{name}:{_describe_kind(kind)}" for name, kind in layout.fields.items())


def _describe_kind(kind: FieldKind) -> str:
    inner = getattr(kind, "inner", None)
    if inner is not None:
        return f"{type(kind).__name__}({_describe_kind(inner)})"
    return f"({_describe(kind.layout)})" if isinstance(kind, Nested) else str(kind)


LAYOUTS: Mapping[type[Event], Layout] = {kind: Layout(kind, ("time", "source")) for kind in KINDS.values()}
"""Layout of an event's own fields."""
CHECKSUMS: Mapping[type[Event], int] = {
    kind: zlib.crc32(f"{_describe(SOURCE)} {_describe(layout)}".encode()) for kind, layout in LAYOUTS.items()
}
"""Numbers that change if a field of the source or of the event does."""


def emit_start(kind: type[Event], source: Source) -> bytes:
    """Return the start of a payload, up to the event's own fields."""
    name = DISSECTORS[kind.topic].encode()
    name += bytes(-len(name) & 3)
    tags = _TAG.pack(TAG_DISSECTOR, len(name)) + name + _TAG.pack(0, 0)
    return tags + _CHECKSUM.pack(CHECKSUMS[kind]) + _NAME.emit(kind.__name__) + SOURCE.emit(source)


def emit_body(event: Event) -> bytes:
    """Return the rest of a payload."""
    return LAYOUTS[type(event)].emit(event)


def parse_payload(payload: bytes, time: float) -> Event:
    """Return the event in a payload, with this time. Raises NotAnEvent."""
    try:
        at = 0
        while True:
            tag, length = _TAG.unpack_from(payload, at)
            at += _TAG.size + length
            if tag == 0:
                break
        (version,) = _CHECKSUM.unpack_from(payload, at)
        name, at = _NAME.parse(payload, at + _CHECKSUM.size)
        kind = KINDS.get(name)
        if kind is None or version != CHECKSUMS[kind]:
            raise NotAnEvent(f"{name} of another version")
        source, at = SOURCE.parse(payload, at)
        values, at = LAYOUTS[kind].parse(payload, at)
    except (struct.error, IndexError, UnicodeDecodeError) as exc:
        raise NotAnEvent(f"a damaged event: {exc}") from None
    return kind(time, Source(**source), **values)
