"""Framing byte by byte: whole messages with their own file descriptors, or one typed error and nothing left open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.carriers.framing import ProtocolError
from drivers.testing import CountedHandle
from support.rigs.framing import FDS_MAX, HEADER_SIZE, SIZE_MAX, LetterAssembler, emit

letters = st.lists(st.tuples(st.binary(max_size=SIZE_MAX), st.integers(0, FDS_MAX)), max_size=6)


def handles(count: int, still_open: list[CountedHandle]) -> list[CountedHandle]:
    return [CountedHandle(still_open) for _ in range(count)]


def refused(match: str, *parts: tuple[bytes, int]) -> None:
    """The last part, bytes and a number of file descriptors, is refused, and the assembler is as new."""
    assembler, still_open = LetterAssembler(), list[CountedHandle]()
    *early, last = parts
    for data, fds in early:
        assert assembler.feed(data, handles(fds, still_open)) is None
    with pytest.raises(ProtocolError, match=match):
        assembler.feed(last[0], handles(last[1], still_open))
    assert still_open == []
    assert not assembler.partial
    assert assembler.missing == HEADER_SIZE


@given(letters, st.integers(1, SIZE_MAX + HEADER_SIZE))
def test_any_split_gives_the_messages_with_their_descriptors(sent: list[tuple[bytes, int]], chunk: int) -> None:
    assembler = LetterAssembler()
    for text, fds in sent:
        stream, given_now = emit(text, fds), handles(fds, [])
        expected, got = list(given_now), None
        while stream:
            assert got is None
            part = stream[: min(chunk, assembler.missing)]
            stream = stream[len(part) :]
            got = assembler.feed(part, given_now)
            given_now = []
            assert assembler.missing > 0
            assert assembler.partial == bool(stream)
        assert got is not None
        assert got.text == text
        assert got.handles == expected


def test_missing_bytes_are_those_of_the_header_then_those_of_the_body() -> None:
    assembler = LetterAssembler()
    missing = [assembler.missing]
    for part in (b"\3", b"\0", b"ab"):
        assert assembler.feed(part) is None
        missing.append(assembler.missing)
    assert missing == [2, 1, 3, 1]


def test_a_message_without_a_body_is_whole_with_its_header() -> None:
    got = LetterAssembler().feed(emit(b""))
    assert got is not None
    assert got.text == b""


def test_a_message_that_is_too_long_is_refused_with_its_header() -> None:
    refused(f"a letter of {SIZE_MAX + 1} bytes", (bytes((SIZE_MAX + 1, 1)), 1))
    refused("a letter of 255 bytes", (b"\xff", 1), (b"\1", 0))


def test_bytes_of_the_next_message_are_refused() -> None:
    refused("more bytes than the message has", (emit(b"") + b"\0", 0))
    refused("more bytes than the message has", (emit(b"ab", 1)[:HEADER_SIZE], 1), (b"abc", 0))


def test_no_bytes_are_refused() -> None:
    refused("more bytes than the message has", (b"", 1))


@pytest.mark.parametrize("at", [1, HEADER_SIZE, HEADER_SIZE + 1])
def test_descriptors_in_the_middle_of_a_message_are_refused(at: int) -> None:
    data = emit(b"ab", 1)
    parts = [(data[:1], 1)] + [(data[i : i + 1], 0) for i in range(1, at)]
    refused("a file descriptor in the middle of a message", *parts, (data[at : at + 1], 1))


def test_descriptors_beyond_the_limit_are_refused_before_the_header_is_complete() -> None:
    refused(f"{FDS_MAX + 1} file descriptors with one message", (b"\0", FDS_MAX + 1))


@pytest.mark.parametrize(("promised", "given_now"), [(0, 1), (1, 0), (2, 1)])
def test_a_wrong_number_of_descriptors_is_refused(promised: int, given_now: int) -> None:
    refused(f"{given_now} file descriptors instead of {promised}", (emit(b"", promised), given_now))


def test_close_drops_a_partial_message_and_what_came_with_it() -> None:
    assembler, still_open = LetterAssembler(), list[CountedHandle]()
    assembler.feed(emit(b"ab", 2)[:HEADER_SIZE], handles(2, still_open))
    assert len(still_open) == 2
    assembler.close()
    assert still_open == []
    whole = emit(b"new")
    assert assembler.feed(whole[:HEADER_SIZE]) is None
    got = assembler.feed(whole[HEADER_SIZE:])
    assert got is not None
    assert got.text == b"new"


def test_descriptors_of_a_whole_message_are_the_receivers() -> None:
    assembler, still_open = LetterAssembler(), list[CountedHandle]()
    assert assembler.feed(emit(b"", 1), handles(1, still_open)) is not None
    assembler.close()
    assert len(still_open) == 1
