"""Limits of lines: their number in a time, and the intervals at which one problem is repeated."""

from __future__ import annotations

import itertools

import pytest
import trio

from vnet.system.limited import AGAIN, KEPT, LINES, PER, LimitedReport, LineLimit


@pytest.mark.hostile("V12")
async def test_troubles_that_are_all_different_are_limited_as_well() -> None:
    output = list[str]()
    lines = LimitedReport("x", output.append)
    for number in range(1000):
        lines.trouble(f"trouble {number}")
    assert output == [f"x: trouble {number}" for number in range(LINES)]
    await trio.sleep(PER)
    lines.trouble("trouble 999")
    assert output[LINES:] == ["x: 990 more", "x: trouble 999"]


async def test_a_problem_is_repeated_at_intervals_that_double_up_to_the_longest() -> None:
    limit, admitted = LineLimit(), list[tuple[float, int]]()
    start, (shortest, longest) = trio.current_time(), AGAIN
    for _ in range(300):
        more = limit.admit_problem("trouble")
        if more is not None:
            admitted.append((trio.current_time() - start, more))
        await trio.sleep(1)
    pauses = [later[0] - earlier[0] for earlier, later in itertools.pairwise(admitted)]
    assert pauses == [shortest, 2 * shortest, 4 * shortest, 8 * shortest, *[longest] * (len(pauses) - 4)]
    assert [more for _, more in admitted] == [0, *(int(pause) - 1 for pause in pauses)]


async def test_a_problem_that_rests_begins_anew_and_old_ones_are_forgotten() -> None:
    limit = LineLimit()
    assert limit.admit_problem("trouble", 3) == 2
    await trio.sleep(3 * AGAIN[1])
    assert limit.admit_problem("trouble") == 0
    for number in range(KEPT):
        await trio.sleep(PER)
        assert limit.admit_problem(f"trouble {number}") == 0
    assert limit.admit_problem("trouble") == 0
