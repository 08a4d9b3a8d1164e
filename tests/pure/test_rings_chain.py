"""The bytes of a chain, however they are cut into segments."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings import chain
from rings.chain import copy_in, copy_out, skip, take, total

DATA = bytes(range(1, 41))


def cut(data: bytearray, places: list[int]) -> list[memoryview]:
    """Segments of ``data``, cut at these places: none of them empty."""
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    whole = memoryview(data)
    return [whole[low:high] for low, high in pairwise(edges)]


places = st.lists(st.integers(1, 39), max_size=6)
sizes = st.integers(0, 50)


@given(places=places, size=sizes)
def test_every_cut_gives_the_same_bytes(places: list[int], size: int) -> None:
    segs = cut(bytearray(DATA), places)
    assert total(segs) == 40
    assert copy_out(segs, size) == DATA[:size]
    assert b"".join(skip(segs, size)) == DATA[size:]
    assert b"".join(take(segs, size)) == DATA[:size]
    assert all(len(seg) for seg in (*skip(segs, size), *take(segs, size)))


@given(places=places, size=sizes, form=st.sampled_from([bytes, bytearray, memoryview]))
def test_copy_in_fills_from_the_start_and_says_how_much_fitted(
    places: list[int], size: int, form: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    data = bytes(200 + at for at in range(size))
    room = bytearray(DATA)
    fitted = min(size, 40)
    assert copy_in(cut(room, places), form(data)) == fitted
    assert room == data[:fitted] + DATA[fitted:]


@given(into=places, out=places, room=st.integers(0, 40))
def test_copy_moves_bytes_between_any_two_cuts(into: list[int], out: list[int], room: int) -> None:
    target = bytearray(room)
    assert chain.copy(cut(target, into), cut(bytearray(DATA), out)) == room
    assert target == DATA[:room]


def test_skip_and_take_lend_the_memory_itself() -> None:
    data = bytearray(DATA)
    segs = cut(data, [10, 20])
    skip(segs, 15)[0][0] = 0
    take(segs, 3)[0][0] = 0
    assert (data[15], data[0]) == (0, 0)


@pytest.mark.parametrize("size", [0, 1])
def test_a_chain_of_no_bytes_gives_none(size: int) -> None:
    assert (total([]), copy_out([], size), skip([], size), take([], size), copy_in([], b"x" * size)) == (
        0,
        b"",
        [],
        [],
        0,
    )


@pytest.mark.hostile("R16", "D10")
def test_copy_out_is_private_and_keeps_what_it_read() -> None:
    data = bytearray(DATA)
    for segs in (cut(data, []), cut(data, [5, 9])):
        data[:] = DATA
        copied = copy_out(segs, 12)
        data[:] = bytes(40)
        assert copied == DATA[:12]
