"""The time that accesses to a server in another process may block ours."""

from __future__ import annotations

import pytest

from vnet.linux.patience import EACH, MOST, SHARE, Patience


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def ready_after(self, seconds: float) -> object:
        """Return a wait that is ready after so long."""

        def ready(timeout: float) -> bool:
            self.now += min(seconds, timeout)
            return seconds <= timeout

        return ready


@pytest.mark.hostile("W18")
def test_one_access_has_its_limit() -> None:
    clock = Clock()
    patience = Patience(clock)
    assert patience.wait(clock.ready_after(0.5)) == 0.5  # type: ignore[arg-type]
    assert patience.wait(clock.ready_after(EACH), 0.5) is None  # type: ignore[arg-type]
    assert patience.blocked == EACH


@pytest.mark.hostile("W18")
def test_late_replies_to_every_access_block_a_bounded_share_of_the_time() -> None:
    clock = Clock()
    patience, start = Patience(clock), clock.now
    while clock.now < start + 1000:
        if patience.wait(clock.ready_after(0.9 * EACH)) is None:  # type: ignore[arg-type]
            assert not patience.recovered
            while not patience.recovered:
                clock.now += 1
    assert patience.blocked < MOST + 1000 * SHARE + 2 * EACH


def test_quick_replies_never_end_it() -> None:
    clock = Clock()
    patience = Patience(clock)
    for _ in range(10_000):
        assert patience.wait(clock.ready_after(0.0001)) is not None  # type: ignore[arg-type]
        clock.now += 0.01
    assert patience.recovered
