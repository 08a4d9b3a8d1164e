"""Choose few inputs that together reach all lines that many reach: the corpus that is kept in the repository."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import Any

import drivers
import rings
import vnet
from fuzz.oracle import Judge
from fuzz.table import Target

__all__ = ["choose", "lines_of"]

PACKAGES = tuple(package.__path__[0] for package in (rings, drivers, vnet))
"""Folders of the packages, which may be installed elsewhere."""
Step = tuple[CodeType, int, int]
"""A function, and two lines of it, of which the second was run after the first."""


def lines_of(judge: Judge, data: bytes) -> frozenset[Step]:
    """Run an input. Returns the steps from line to line in the packages. Raises an error of the code."""
    steps: set[Step] = set()
    last: dict[FrameType, int] = {}

    def in_function(frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            steps.add((frame.f_code, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        elif event == "return":
            last.pop(frame, None)
        return in_function

    def on_call(frame: FrameType, event: str, arg: object) -> Any:
        return in_function if frame.f_code.co_filename.startswith(PACKAGES) else None

    judge.count = 1  # its calls are not counted
    sys.settrace(on_call)
    try:
        judge(data)
    finally:
        sys.settrace(None)
    return frozenset(steps)


def choose(target: Target, inputs: Iterable[bytes], most: int) -> list[bytes]:
    """Return up to ``most`` inputs, those that add most steps first, the shorter one of two that add as many."""
    judge = Judge(target)
    reached = {data: lines_of(judge, data) for data in sorted(set(inputs), key=lambda data: (len(data), data)) if data}
    chosen: list[bytes] = []
    have: set[Step] = set()
    while len(chosen) < most and reached:
        best = max(reached, key=lambda data: (len(reached[data] - have), -len(data)))
        if not reached[best] - have:
            break
        have |= reached.pop(best)
        chosen.append(best)
    return chosen
