"""Fields of records as bytes: a kind for each annotation, exact widths, and every record there and back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from typing import Any, Literal, NewType

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.contracts.events import HEX, RECORDS, Buffer, Event, FrameEvent, LinkMoved, Source, Topic
from support.captures import EVENT_NAMES, SOURCE
from vnet.capture.fields import WORD, Choice, FieldKind, Layout, Many, Nested, Optional, Scalar, Text

COMMON = ("time", "source")
Handle = NewType("Handle", int)


def layout_of(hint: Any) -> Layout:
    return Layout(attrs.make_class("Sample", {"field": attrs.field(type=hint)}, frozen=True))


def kind_of(hint: object) -> FieldKind:
    return layout_of(hint).fields["field"]


def values(kind: FieldKind) -> st.SearchStrategy[Any]:
    """All values of a kind that have bytes."""
    match kind:
        case Scalar("Q"):
            return st.integers(0, WORD)
        case Scalar("?"):
            return st.booleans()
        case Scalar():
            return st.floats(allow_nan=False)
        case Text(raw):
            return st.binary() if raw else st.text()
        case Choice(members):
            return st.sampled_from(list(members))
        case Optional(inner):
            return st.none() | values(inner)
        case Many(inner):
            return st.lists(values(inner), max_size=3).map(tuple)
        case Nested(layout):
            return fields(layout).map(lambda given: layout.record(**given))
    raise AssertionError(kind)


def fields(layout: Layout) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: values(kind) for name, kind in layout.fields.items()})


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_every_record_has_bytes_but_the_pieces_of_a_frame(name: str) -> None:
    kind = RECORDS[name]
    skip = (*COMMON, "pieces") if issubclass(kind, FrameEvent) else COMMON
    layout = Layout(kind, skip)
    own = {field.name for field in attrs.fields(kind)} - set(skip)
    assert set(layout.fields) == own
    assert layout.hexadecimal & own == {each.name for each in attrs.fields(kind) if each.metadata == HEX}
    fixed = [isinstance(each, Scalar) for each in layout.fields.values()]
    assert fixed == sorted(fixed, reverse=True), "numbers of fixed size come first"


@pytest.mark.parametrize("name", sorted(set(RECORDS) - set(EVENT_NAMES)))
def test_the_pieces_of_a_frame_have_no_bytes(name: str) -> None:
    with pytest.raises(TypeError, match=r"memoryview.* has no bytes in a capture"):
        Layout(RECORDS[name], COMMON)


@pytest.mark.parametrize("name", EVENT_NAMES)
@settings(max_examples=20)
@given(data=st.data())
def test_every_record_is_read_back_with_any_values(name: str, data: st.DataObject) -> None:
    kind = RECORDS[name]
    layout = Layout(kind, COMMON)
    given_ = data.draw(fields(layout))
    emitted = layout.emit(kind(1.0, SOURCE, **given_))
    assert layout.parse(b"abc" + emitted + b"next", 3) == (given_, 3 + len(emitted))


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (int, Scalar("Q")),
        (Handle, Scalar("Q")),
        (float, Scalar("d")),
        (bool, Scalar("?")),
        (str, Text()),
        (bytes, Text(raw=True)),
        (Literal["kick", "call"], Text()),
        (Literal[1, 2], Scalar("Q")),
        (Topic, Choice(Topic)),
        (int | None, Optional(Scalar("Q"))),
        (None | str, Optional(Text())),
        (Sequence[str], Many(Text())),
        (list[int], Many(Scalar("Q"))),
        (tuple[int, ...] | None, Optional(Many(Scalar("Q")))),
    ],
)
def test_an_annotation_has_a_kind(hint: object, kind: FieldKind) -> None:
    assert kind_of(hint) == kind


def test_a_record_within_a_record_has_its_own_layout() -> None:
    kind = kind_of(Sequence[Buffer])
    assert isinstance(kind, Many)
    assert isinstance(kind.inner, Nested)
    assert kind.inner.layout.fields == {"addr": Scalar("Q"), "size": Scalar("Q"), "writable": Scalar("?")}
    assert kind.inner.layout.hexadecimal == {"addr"}


@pytest.mark.parametrize("hint", [int | str, int | str | None, dict[str, int], memoryview, object])
def test_other_annotations_are_refused(hint: object) -> None:
    with pytest.raises(TypeError, match="has no bytes in a capture"):
        kind_of(hint)


@pytest.mark.parametrize(
    ("hint", "value", "data"),
    [
        (int, 0x0102, b"\x02\x01" + bytes(6)),
        (int, WORD, b"\xff" * 8),
        (float, 1.0, struct.pack("<d", 1.0)),
        (bool, True, b"\1"),
        (str, "ü", b"\2\0\0\0\xc3\xbc"),
        (str, "", bytes(4)),
        (bytes, b"\xff\0", b"\2\0\0\0\xff\0"),
        (Topic, Topic.TLPS, b"\4\0\0\0tlps"),
        (bool | None, None, b"\0"),
        (bool | None, False, b"\1\0"),
        (Sequence[bool], (True, False), b"\2\0\1\0"),
        (Sequence[str], (), b"\0\0"),
        (Sequence[Buffer], (Buffer(1, 2, True),), b"\1\0\1" + bytes(7) + b"\2" + bytes(7) + b"\1"),
    ],
)
def test_values_have_exact_bytes(hint: object, value: object, data: bytes) -> None:
    layout = layout_of(hint)
    assert layout.emit(layout.record(value)) == data
    assert layout.parse(data, 0) == ({"field": value}, len(data))


@pytest.mark.parametrize(("value", "read"), [(1 << 64 | 5, 5), (-1, WORD), (1 << 200, 0)])
@pytest.mark.parametrize("hint", [int, int | None, Sequence[int]])
def test_a_number_keeps_its_lower_64_bits(hint: object, value: int, read: int) -> None:
    layout = layout_of(hint)
    many = hint == Sequence[int]
    data = layout.emit(layout.record((value,) if many else value))
    assert layout.parse(data, 0)[0] == {"field": (read,) if many else read}


def test_a_large_number_leaves_its_neighbours_as_they_are() -> None:
    layout = Layout(
        attrs.make_class("Sample", {n: attrs.field(type=t) for n, t in (("a", int), ("b", bool), ("c", int))})
    )
    data = layout.emit(layout.record(1 << 64 | 1, True, 3))
    assert layout.parse(data, 0) == ({"a": 1, "b": True, "c": 3}, 17)


@pytest.mark.parametrize("size", [0xFFFF, 0x10000, 1 << 20])
@pytest.mark.parametrize(("hint", "unit"), [(str, "é"), (bytes, b"\xe9")])
def test_long_texts_are_whole(hint: object, unit: Any, size: int) -> None:
    layout = layout_of(hint)
    data = layout.emit(layout.record(unit * size))
    assert layout.parse(data, 0) == ({"field": unit * size}, len(data))


def test_a_text_that_utf_8_cannot_hold_is_escaped() -> None:
    """A client of the control socket may name its command so."""
    assert Text().parse(Text().emit("a\ud800"), 0)[0] == "a\\ud800"


def test_of_a_long_sequence_the_first_65535_values_are_kept() -> None:
    kind = Many(Scalar("?"))
    data = kind.emit((True,) * 0x10000)
    assert kind.parse(data, 0) == ((True,) * 0xFFFF, 2 + 0xFFFF)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Scalar("Q"), bytes(7)),
        (Text(), bytes(3)),
        (Text(), b"\3\0\0\0ab"),
        (Text(), b"\xff\xff\xff\xffab"),
        (Text(), b"\1\0\0\0\xff"),
        (Choice(Topic), b"\1\0\0\0x"),
        (Optional(Scalar("Q")), b""),
        (Optional(Scalar("Q")), b"\1"),
        (Many(Scalar("?")), b"\1"),
        (Many(Scalar("?")), b"\xff\xff\1\1"),
        (Nested(Layout(Buffer)), bytes(16)),
    ],
)
def test_damaged_bytes_raise_what_the_reader_expects(kind: FieldKind, data: bytes) -> None:
    with pytest.raises((struct.error, IndexError, ValueError)):
        kind.parse(data, 0)


class Mood(Enum):
    CALM = "calm"


@attrs.frozen
class LinkMovedLater(LinkMoved):
    """`LinkMoved` as a later version may have it."""

    mood: Mood
    lanes: int | None
    places: Sequence[Source]


def test_a_record_of_a_later_version_has_bytes_without_further_code() -> None:
    kind: type[Event] = LinkMovedLater
    layout, earlier = Layout(kind, COMMON), Layout(LinkMoved, COMMON)
    made = LinkMovedLater(1.0, SOURCE, False, 7, Mood.CALM, None, (SOURCE, Source()))
    data = layout.emit(made)
    read, end = layout.parse(data, 0)
    assert LinkMovedLater(1.0, SOURCE, **read) == made
    assert end == len(data)
    short = earlier.emit(LinkMoved(1.0, SOURCE, False, 7))
    assert data.startswith(short), "new fields follow"
    with pytest.raises((struct.error, IndexError)):
        layout.parse(short, 0)


def test_a_record_without_own_fields_has_no_bytes() -> None:
    layout = Layout(attrs.make_class("Sample", {}))
    assert layout.emit(layout.record()) == b""
    assert layout.parse(b"next", 0) == ({}, 0)
