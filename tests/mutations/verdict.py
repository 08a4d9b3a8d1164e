"""Judge how a test failed under an edit: by its own assertion, or for a reason that proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]


class Verdict(Enum):
    """Result of one mutation. Only CAUGHT proves a mark."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    WRONG_REASON = "wrong reason"
    STALE = "stale"
    UNMARKED = "unmarked"


@attrs.frozen
class Result:
    """Verdict with one line that says why."""

    verdict: Verdict
    reason: str = ""


def judge(error: BaseException, raises: str) -> Result:
    """Return CAUGHT if each part of the error is an assertion of a test, or the error that the table names."""
    for leaf in _leaves(error):
        if not _is_finding(leaf, raises):
            return Result(Verdict.WRONG_REASON, _line(leaf))
    return Result(Verdict.CAUGHT, _line(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _is_finding(error: BaseException, raises: str) -> bool:
    if type(error).__name__ == raises != "AssertionError":
        return True
    if isinstance(error, pytest.fail.Exception):
        return True
    return isinstance(error, AssertionError) and _is_test(_origin(error))


def _origin(error: BaseException) -> Path:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename if trace is not None else "")


def _is_test(path: Path) -> bool:
    """Tell if the path is one of a test, of pytest, or of the kits, whose assertions belong to the tests."""
    if "_pytest" in path.parts:
        return True
    if not path.is_relative_to(ROOT):
        return False
    parts = path.relative_to(ROOT).parts
    return parts[0] == "tests" or "testing" in parts


def _line(error: BaseException) -> str:
    """Say what the test found, and in which line of the last file of tests."""
    leaf = next(_leaves(error))
    place, trace = "", leaf.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if _is_test(path):
            place = f"{path.name}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return f"{place}{type(leaf).__name__}: {leaf}".strip().splitlines()[0][:200]
