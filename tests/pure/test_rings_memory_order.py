"""Memory order between two processes, in the short form; ``python -m tests.litmus`` is the long one."""

from __future__ import annotations

import sys

import pytest
from litmus.accesses import STORES, store_buffer, torn_index
from litmus.hand_off import hand_off
from litmus.rearm import rearm
from litmus.shared import processors

pytestmark = pytest.mark.skipif(
    len(processors()) < 2, reason="on one processor no two accesses are made at the same time"
)
FORM = pytest.mark.parametrize("form", ["split", "packed"])
TRIES = 40
"""Runs in which a mutant must be caught: processes on a busy machine seldom run at the same time."""


@pytest.mark.hostile("R25")
def test_no_load_passes_the_fence_behind_a_store() -> None:
    assert store_buffer(10_000, fence=True).forbidden == 0


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="these take longer from a store to a load than a store waits")
def test_without_the_fence_loads_pass_stores() -> None:
    """The test above can fail."""
    assert any(store_buffer(20_000, fence=False).forbidden for _ in range(TRIES))


@pytest.mark.hostile("R24")
def test_an_index_stored_through_a_view_is_never_torn() -> None:
    assert torn_index(100_000).torn == 0


@pytest.mark.parametrize("how", STORES[1:])
def test_other_ways_of_storing_tear_an_index(how: str) -> None:
    """The test above can fail."""
    assert any(torn_index(100_000, how).torn for _ in range(TRIES))


@pytest.mark.hostile("R25")
@pytest.mark.parametrize(("form", "side"), [("split", "driver"), ("packed", "device")])
def test_a_side_that_publishes_notifies_or_the_other_one_sees_the_work(form: str, side: str) -> None:
    assert rearm(2_000, form, event_idx=form == "split", publisher=side).lost == 0


@pytest.mark.hostile("R24", "R25")
@FORM
def test_chains_cross_between_processes_in_order_and_no_notification_is_lost(form: str) -> None:
    done = hand_off(5_000, form, event_idx=form == "split", pauses="driver")
    assert (done.chains, done.broken, done.lost) == (5_000, 0, 0)


@pytest.mark.hostile("R24")
def test_an_index_that_is_stored_in_two_steps_breaks_the_ring() -> None:
    """The test above can fail: the device sees an index of 0, and raises BadRing."""

    def run() -> None:
        for _ in range(TRIES):
            hand_off(20_000, "split", event_idx=True, pauses="driver", divided=True)

    with pytest.raises(AssertionError, match="available index 0 is"):
        run()
