"""Pauses between looks at the ports: who gets them, and who is spared."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from vnet.linux.moderation import BYTES_PER_POLL, MAX_PAUSE, MIN_RATE, PAUSED_WINDOWS, REST_WINDOWS, Moderation


def pauses(rate: Callable[[float], float], windows: int) -> list[float]:
    """The pause of each window, where ``rate`` says what is carried with such a pause."""
    moderation = Moderation()
    return [moderation.next(rate(moderation.pause)) for _ in range(windows)]


@pytest.mark.parametrize(
    ("rate", "pause"), [(MIN_RATE, MAX_PAUSE), (4e8, BYTES_PER_POLL / 4e8), (2e9, BYTES_PER_POLL / 2e9)]
)
def test_equal_throughput_with_pauses_keeps_them_nearly_always(rate: float, pause: float) -> None:
    assert pauses(lambda _: rate, 3 * (PAUSED_WINDOWS + 1)) == ([pause] * PAUSED_WINDOWS + [0.0]) * 3


def test_little_traffic_has_no_pauses() -> None:
    assert not any(pauses(lambda _: MIN_RATE * 0.99, 100))


def test_request_and_response_traffic_is_rarely_paused() -> None:
    """64 KiB every 200 us, and every 700 us with pauses: tried one window in many."""
    actual = pauses(lambda pause: 65536 / (200e-6 + pause), 10 * (REST_WINDOWS + 1))
    assert 0 < sum(map(bool, actual)) <= 11
    assert not any(a and b for a, b in pairwise(actual))


@pytest.mark.parametrize(("good", "goes_on"), [(1, False), (2, True)])
def test_the_average_throughput_decides(good: int, goes_on: bool) -> None:
    """One window in which little came is one of two, which is too much, or one of three."""
    rates = iter([1e9] + [6e8] * good + [3.5e8])
    actual = pauses(lambda _: next(rates), 2 + good)
    assert all(actual[:-1])
    assert bool(actual[-1]) == goes_on


def test_the_end_of_traffic_ends_pauses() -> None:
    moderation = Moderation()
    assert moderation.next(1e9)
    assert not moderation.next(0.0)
    assert not moderation.next(0.0)
