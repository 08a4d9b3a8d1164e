"""A split ring with the plain path in C beside one in Python: the same words, results and state after each call."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from support.native import NEEDS_NATIVE
from support.rigs.twin import HOSTILE, LAWFUL, NUMS, Call, play

pytestmark = NEEDS_NATIVE


@given(num=NUMS, event_idx=st.booleans(), steps=st.lists(st.one_of(LAWFUL), max_size=60))
@settings(max_examples=200)
def test_lawful_calls_have_the_same_outcome(num: int, event_idx: bool, steps: list[Call]) -> None:
    play("split", num, event_idx, steps)


@given(num=NUMS, event_idx=st.booleans(), steps=st.lists(st.one_of(*LAWFUL, *HOSTILE), max_size=60))
@settings(max_examples=300)
def test_calls_of_a_hostile_side_have_the_same_outcome(num: int, event_idx: bool, steps: list[Call]) -> None:
    play("split", num, event_idx, steps)
