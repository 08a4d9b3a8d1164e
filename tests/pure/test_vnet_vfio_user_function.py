"""Accesses of any size and place in pieces that a link carries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.carriers.base import pieces


@given(st.integers(0, 1 << 48), st.integers(0, 300), st.sampled_from([1, 2, 4, 8]))
def test_pieces_cover_the_access_once_and_are_aligned(offset: int, size: int, largest: int) -> None:
    at = offset
    for start, step in pieces(offset, size, largest):
        assert start == at
        assert step in {1, 2, 4, 8}
        assert step <= largest
        assert start % step == 0
        at += step
    assert at == offset + size


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ((0, 8, 8), [(0, 8)]),
        ((0, 8, 4), [(0, 4), (4, 4)]),
        ((1, 7, 4), [(1, 1), (2, 2), (4, 4)]),
        ((4, 7, 8), [(4, 4), (8, 2), (10, 1)]),
        ((3, 1, 8), [(3, 1)]),
        ((6, 0, 8), []),
    ],
)
def test_pieces_are_as_large_as_they_can_be(access: tuple[int, int, int], expected: list[tuple[int, int]]) -> None:
    assert list(pieces(*access)) == expected
