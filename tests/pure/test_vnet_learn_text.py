"""Steps as text: nothing longer than a terminal, and long steps in short."""

from __future__ import annotations

import pytest

from support.lessons import RING_LESSONS, frames
from vnet.learn.machine import Trace
from vnet.learn.text import FIRST, LAST, WIDTH, access_lines, frame_lines, head_lines, question_lines


@pytest.mark.parametrize("name", RING_LESSONS)
def test_every_line_fits(name: str) -> None:
    for frame in frames(name):
        lines = [*head_lines(name, frame.number, frame.step), *frame_lines(frame)]
        lines += question_lines(frame.step.question) if frame.step.question is not None else []
        assert max(map(len, lines)) <= WIDTH


def test_a_step_shows_changes_accesses_and_outcome() -> None:
    publish = frames("split")[2]
    assert list(frame_lines(publish))[-8:] == [
        "",
        "  word       before  after",
        "  avail.idx  0       1",
        "  in this order",
        "    driver  store  avail.idx = 1",
        "    driver  fence",
        "    driver  load   used.flags = 0",
        "  => The driver must notify the device: yes.",
    ]


@pytest.mark.parametrize(("count", "lines"), [(0, 0), (24, 24), (25, 25), (26, 25), (100, 25)])
def test_the_middle_of_a_long_step_is_counted(count: int, lines: int) -> None:
    shown = list(access_lines([Trace("driver", "load", str(at)) for at in range(count)]))
    assert len(shown) == lines
    if count > lines:
        assert shown[FIRST] == f"... {count - FIRST - LAST} more"
