"""A value in an error is shown on one line as the user has written it, or could have: in TOML."""

from __future__ import annotations

import tomllib
from datetime import date, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.fields import dotted, shown

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS)
SCALARS = (
    TEXTS
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.booleans()
    | st.dates(date(1, 1, 1))
    | st.floats(allow_nan=False)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10)


@given(VALUES)
def test_toml_reads_the_same_value(value: object) -> None:
    line = shown(value)
    assert len(line.splitlines()) <= 1
    assert tomllib.loads(f"value = {line}") == {"value": value}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("memory", "'memory'"),
        ("it's", '"it\'s"'),
        ("a\nb", r'"a\nb"'),
        ((5000,), "[5000]"),
        ({"nbd": "x", "a b": True}, "{ nbd = 'x', 'a b' = true }"),
        ({}, "{}"),
        (time(7, 30), "07:30:00"),
        (None, "None"),
    ],
)
def test_values(value: object, line: str) -> None:
    assert shown(value) == line


def test_a_number_of_too_many_digits_is_not_printed() -> None:
    assert shown(10**5000) == "a value too long to print"


def test_a_key_that_does_not_print_is_escaped() -> None:
    assert dotted(("hosts", "\x1b[2J")) == r'hosts."\u001b[2J"'
