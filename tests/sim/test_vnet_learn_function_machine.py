"""Lessons on a real function: the device's answers are those of the stack, and nothing stays behind."""

from __future__ import annotations

import re

import pytest

from support.lessons import live_frames
from vnet.learn.function_machine import FunctionMachine, status_names
from vnet.learn.lessons import LESSONS
from vnet.learn.svg import slide
from vnet.learn.text import frame_lines

LIVE = pytest.mark.parametrize("name", ["bring-up", "hostile"])


@LIVE
async def test_a_lesson_is_the_same_each_time(name: str) -> None:
    first, second = await live_frames(name), await live_frames(name)
    assert [slide(frame) for frame in first] == [slide(frame) for frame in second]
    assert [list(frame_lines(frame)) for frame in first] == [list(frame_lines(frame)) for frame in second]
    assert all(re.fullmatch(r"\d+(\.\d+)+", frame.step.section) for frame in first)


async def test_the_lesson_has_the_function_for_itself() -> None:
    async with LESSONS["hostile"].open() as machine:
        assert isinstance(machine, FunctionMachine)
        assert machine.device.status == 0
        await machine.settle()
        assert machine.trace == []


@pytest.mark.parametrize(
    ("value", "names"), [(0, "0"), (15, "ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK"), (64, "NEEDS_RESET")]
)
def test_status_bits_are_named_in_the_order_of_the_initialization(value: int, names: str) -> None:
    assert status_names(value) == names
