"""Limits of lines: their number in a time, and the intervals at which one problem is repeated."""

from __future__ import annotations

import itertools

import pytest
import trio

from vnet.system.limited import AGAIN, KEPT, LINES, PER, TEXT_MAX, LimitedReport, LineLimit


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


@pytest.mark.hostile("V12")
async def test_a_huge_text_is_cut() -> None:
    output = list[str]()
    lines = LimitedReport("x", output.append)
    lines.trouble("a" * 100_000)
    lines.say("b" * 100_000)
    lines.say("c" * TEXT_MAX)
    assert output == [f"x: {'a' * (TEXT_MAX - 3)}...", f"x: {'b' * (TEXT_MAX - 3)}...", f"x: {'c' * TEXT_MAX}"]


async def test_repetitions_of_a_problem_that_ended_are_due_after_its_pause() -> None:
    limit = LineLimit()
    assert limit.admit_problem("trouble", 100) == 99
    assert limit.admit_problem("trouble", 10_000) is None
    assert limit.take_due() == []
    await trio.sleep(AGAIN[0])
    assert limit.take_due() == [("trouble", 10_000)]
    assert limit.take_due() == []
    assert limit.admit_problem("trouble", 3) is None
    await trio.sleep(AGAIN[0])
    assert limit.take_due() == [], "its pause is twice as long now"
    assert limit.take_due(end=True) == [("trouble", 3)]


async def test_repetitions_that_are_due_count_as_lines() -> None:
    limit = LineLimit()
    assert limit.admit_problem("trouble") == 0
    assert limit.admit_problem("trouble") is None
    await trio.sleep(AGAIN[0])
    for _ in range(LINES):
        assert limit.admit()
    assert limit.take_due() == []
    await trio.sleep(PER)
    assert limit.take_due() == [("trouble", 1)]


async def test_a_repetition_above_the_limit_counts_as_a_repetition_alone() -> None:
    limit = LineLimit()
    assert limit.admit_problem("trouble") == 0
    await trio.sleep(AGAIN[0])
    for _ in range(LINES):
        assert limit.admit()
    assert limit.admit_problem("trouble", 3) is None
    assert limit.take_skipped() == 0
    await trio.sleep(PER)
    assert limit.admit_problem("trouble") == 3


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
