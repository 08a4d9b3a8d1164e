"""QMP messages are told apart however they are cut, and refused with QMP's words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.qmp.codec import Framer, LineFramer, QmpError, TooLong, emit, parse, request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5)
ENDS = st.sampled_from([b"", b"\n", b"\r\n", b"  "])


@given(OBJECTS, st.data())
def test_objects_come_out_whole_however_the_stream_is_cut_and_with_any_bytes_between_them(
    objects: list[dict[str, object]], data: st.DataObject
) -> None:
    stream = b"".join(json.dumps(each).encode() + data.draw(ENDS) for each in objects)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    framer, actual = Framer(1 << 20), list[object]()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        actual += map(parse, framer.feed(stream[start:end]))
    assert actual == objects


@given(OBJECTS, st.binary(max_size=20), st.data())
def test_lines_come_out_whole_however_the_stream_is_cut_and_what_is_behind_them_is_kept(
    objects: list[dict[str, object]], behind: bytes, data: st.DataObject
) -> None:
    behind = behind.replace(b"\n", b"")
    stream = b"".join(map(emit, objects)) + behind
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    framer, actual = LineFramer(1 << 20), list[object]()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        actual += map(parse, framer.feed(stream[start:end]))
    assert (actual, framer.rest) == (objects, behind)


@pytest.mark.parametrize("message", [b"x" * 65, b"x" * 65 + b"\n", b"x" * 64 + b"\n" + b"y" * 65])
def test_a_line_beyond_the_limit_is_refused_after_those_before_it(message: bytes) -> None:
    framer, actual = LineFramer(64), list[bytes]()
    with pytest.raises(TooLong, match="at most 64 bytes"):
        actual.extend(framer.feed(b"{}\r\n\r\n" + message))
    assert actual == [b"{}", *[b"x" * 64] * (b"y" in message)]


@given(st.binary(max_size=200), st.data())
def test_after_any_garbage_a_newline_gets_back_into_step(garbage: bytes, data: st.DataObject) -> None:
    framer = Framer(1 << 10)
    cut = data.draw(st.integers(0, len(garbage)))
    list(framer.feed(garbage[:cut]))
    list(framer.feed(garbage[cut:] + b"\n"))
    assert list(framer.feed(b'{"execute": "quit"}')) == [b'{"execute": "quit"}']


@pytest.mark.parametrize("garbage", [b"{{{{", b'{"a', b'"', b"}", b"nonsense", b'{"a\\'])
def test_half_an_object_ends_at_the_newline(garbage: bytes) -> None:
    framer = Framer(1 << 10)
    *_, last = framer.feed(garbage + b"\n{}")
    assert last == b"{}"


@pytest.mark.parametrize("message", [b"[" * 65, b'{"a": "' + b"x" * 60 + b'"}', b"{" * 65])
def test_a_message_beyond_the_limit_is_refused_after_those_before_it(message: bytes) -> None:
    framer, actual = Framer(64), list[bytes]()
    with pytest.raises(TooLong, match="at most 64 bytes"):
        actual.extend(framer.feed(b"{}" + message))
    assert actual == [b"{}"]


def test_an_answer_may_have_as_many_objects_as_a_large_system() -> None:
    message = b'{"return": [' + b", ".join([b'{"queues": [{}]}'] * 5000) + b"]}"
    assert parse(message)["return"] == [{"queues": [{}]}] * 5000


@pytest.mark.parametrize(
    ("message", "desc"),
    [
        (b"{", "Invalid JSON syntax"),
        (b"\xff", "Invalid JSON syntax"),
        (b"1" * 5000, "Invalid JSON syntax"),
        (b"[" * 60000, "too many objects and arrays in one message"),
        (b"[]", "QMP input must be a JSON object"),
        (b"null", "QMP input must be a JSON object"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b'{"execute": 3}', "QMP input member 'execute' must be a string"),
        (b'{"execute": "x", "arguments": []}', "QMP input member 'arguments' must be an object"),
        (b'{"execute": "x", "frob": 1}', "QMP input member 'frob' is unexpected"),
    ],
)
def test_an_unknown_command_is_refused(message: bytes, desc: str) -> None:
    with pytest.raises(QmpError) as caught:
        request(parse(message))
    assert caught.value.as_dict() == {"error": {"class": "GenericError", "desc": desc}}


def test_a_value_that_json_does_not_know_is_text() -> None:
    assert parse(emit({"return": {"path": Path("/a"), "at": 1 + 2j}})) == {"return": {"path": "/a", "at": "(1+2j)"}}
