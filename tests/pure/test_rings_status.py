"""The device status field: every move a driver may make, and what becomes of all others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.status import MOVES, Status, next_status

ORDER = [Status.ACKNOWLEDGE, Status.DRIVER, Status.FEATURES_OK, Status.DRIVER_OK]
STEPS = [Status(0), Status(1), Status(3), Status(11), Status(15)]
DRIVERS = 1 | 2 | 4 | 8 | 128
BYTE = st.integers(1, 255)


def reachable() -> set[Status]:
    """Every status a driver can bring about from a reset, with the device asking for one at any time."""
    actual, new = set(), {Status(0)}
    while new:
        actual |= new
        new = {
            then for now in actual for value in range(1, 256) for then in (next_status(now, value), now | 64)
        } - actual
    return actual


def test_a_driver_climbs_one_step_at_a_time() -> None:
    assert [int(bit) for bit in ORDER] == [1, 2, 8, 4]
    status = Status(0)
    for bit, step in zip(ORDER, STEPS[1:], strict=True):
        status = next_status(status, status | bit)
        assert status == step


def test_only_the_steps_can_be_reached_with_or_without_failed_and_needs_reset() -> None:
    assert reachable() == {step | failed | reset for step in STEPS for failed in (0, 128) for reset in (0, 64)}


@pytest.mark.hostile("S03")
@pytest.mark.parametrize("step", STEPS[1:])
@pytest.mark.parametrize("extra", [0, Status.NEEDS_RESET])
def test_a_write_that_clears_a_bit_changes_nothing(step: Status, extra: int) -> None:
    old = step | extra
    for value in range(1, 256):
        if step & ~value:
            assert next_status(old, value) == old


@pytest.mark.hostile("S03")
@pytest.mark.parametrize(
    ("old", "written", "new"),
    [(0, 4, 0), (0, 8, 0), (0, 2, 0), (1, 5, 1), (1, 9, 1), (3, 7, 3), (3, 0x30 | 3, 3), (0, 1 | 4, 1), (0, 1 | 8, 1)],
)
def test_a_bit_that_is_not_due_stays_unset(old: int, written: int, new: int) -> None:
    assert next_status(Status(old), written) == new


@pytest.mark.parametrize("step", STEPS)
def test_failed_may_be_set_at_any_step_and_ends_all_moves(step: Status) -> None:
    failed = next_status(step, step | Status.FAILED)
    assert failed & Status.FAILED
    for value in range(1, 256):
        assert next_status(failed, value) == failed


@given(old=st.sampled_from(sorted(reachable())), written=BYTE)
def test_a_driver_never_clears_a_bit_nor_sets_one_that_is_the_devices(old: Status, written: int) -> None:
    new = next_status(old, written)
    assert new & old == old
    assert new & ~old & ~DRIVERS == 0, "NEEDS_RESET and bits without a meaning are not a driver's to set"
    for bit in ORDER:
        assert not new & bit or MOVES[bit] & ~new == 0
    assert next_status(new, written) == new or new & Status.FAILED, "writing it again changes nothing"


@pytest.mark.parametrize("step", STEPS)
def test_a_driver_that_does_not_know_of_needs_reset_goes_on(step: Status) -> None:
    """Its write lacks the bit that the device has set; that is no attempt to clear it."""
    for bit in ORDER:
        after = next_status(step | Status.NEEDS_RESET, step | bit)
        assert after & ~Status.NEEDS_RESET == next_status(step, step | bit)
        assert after & Status.NEEDS_RESET
