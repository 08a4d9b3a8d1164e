"""The growth of a process in a soak: the slope of its memory over what it moved."""

from __future__ import annotations

import pytest
from campaigns.soak import Growth

MIB = 1 << 20


def test_a_process_that_fills_its_caches_first_does_not_grow() -> None:
    growth = Growth([(number * 1000, min(number, 5) * MIB) for number in range(100)])
    assert growth.slope() == 0


def test_a_leak_shows_through_memory_that_comes_and_goes() -> None:
    growth = Growth([(number * 1000, number * 500 + number % 2 * 4096) for number in range(1000)])
    assert growth.slope() == pytest.approx(0.5, abs=0.01)


def test_a_single_sample_has_no_slope() -> None:
    assert Growth([(1000, MIB)]).slope() == 0
