"""Verdicts of the checker: which ones fail a run, and which level gives which."""

from __future__ import annotations

import attrs
import pytest

from vnet.check.verdicts import OF_LEVEL, Level, Result, Verdict, exit_status

PASSED = Result("R03", "A next", "split", "2.7.5.2", Level.SAFETY, Verdict.PASS, "")


@pytest.mark.parametrize(
    ("verdict", "known", "strict", "status"),
    [
        (Verdict.PASS, False, False, 0),
        (Verdict.FAIL, False, False, 1),
        (Verdict.WEDGED, False, False, 1),
        (Verdict.CRASHED, False, False, 1),
        (Verdict.WARN, False, False, 0),
        (Verdict.WARN, False, True, 1),
        (Verdict.POLICY, False, True, 0),
        (Verdict.SKIP, False, True, 0),
        (Verdict.FAIL, True, False, 0),
        (Verdict.PASS, True, False, 1),
        (Verdict.SKIP, True, False, 0),
    ],
)
def test_the_exit_status_follows_from_the_verdicts(verdict: Verdict, known: bool, strict: bool, status: int) -> None:
    results = [PASSED, attrs.evolve(PASSED, verdict=verdict, known=known)]
    assert exit_status(results, strict=strict) == status


def test_only_must_and_safety_fail() -> None:
    assert {level for level, verdict in OF_LEVEL.items() if verdict is Verdict.FAIL} == {Level.MUST, Level.SAFETY}
