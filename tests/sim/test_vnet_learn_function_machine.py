"""Lessons on a real function: the device's answers are those of the stack, and nothing stays behind."""

from __future__ import annotations

import re

import pytest

from vnet.learn.function_machine import FunctionMachine, status_names
from vnet.learn.lessons import LESSONS
from vnet.learn.step import Frame, play
from vnet.learn.svg import slide
from vnet.learn.text import frame_lines

LIVE = pytest.mark.parametrize("name", ["bring-up", "hostile"])


async def frames(name: str) -> list[Frame]:
    lesson, done = LESSONS[name], []
    async with lesson.open() as machine:
        for moment in play(name, machine, lesson.steps(machine)):
            if moment is None:
                await machine.settle()
            elif isinstance(moment, Frame):
                if moment.step.question is not None:
                    assert moment.step.question.answer(moment) in moment.step.question.choices
                done.append(moment)
    return done


def titled(done: list[Frame], title: str) -> Frame:
    return next(frame for frame in done if frame.step.title == title)


@LIVE
async def test_a_lesson_is_the_same_each_time(name: str) -> None:
    first, second = await frames(name), await frames(name)
    assert [slide(frame) for frame in first] == [slide(frame) for frame in second]
    assert [list(frame_lines(frame)) for frame in first] == [list(frame_lines(frame)) for frame in second]
    assert all(re.fullmatch(r"\d+(\.\d+)+", frame.step.section) for frame in first)


async def test_bring_up_moves_the_status_in_order_and_a_frame_through_the_queue() -> None:
    done = await frames("bring-up")
    moves = [frame.value("device_status") for frame in done]
    assert list(dict.fromkeys(moves)) == [
        "0",
        "ACKNOWLEDGE DRIVER",
        "ACKNOWLEDGE DRIVER FEATURES_OK",
        "ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK",
    ]
    assert moves[-1] == "0"
    refused = titled(done, "A set that the device refuses")
    assert refused.value("device_status") == "ACKNOWLEDGE DRIVER"
    doorbell = titled(done, "The doorbell")
    assert doorbell.outcome.endswith("a frame of 60, as sent.")
    assert [one.text for one in doorbell.trace if one.act == "interrupt"] == ["MSI-X vector 1: transmitq1"]
    acts = [one.act for one in doorbell.trace]
    assert acts.index("notify") < acts.index("map") < acts.index("interrupt")


async def test_registers_in_the_picture_are_those_that_the_driver_wrote() -> None:
    frame = titled(await frames("bring-up"), "Set up a queue")
    written = dict(one.text.split(" = ") for one in frame.trace if one.act == "write")
    for name in ("size", "desc", "driver", "device", "msix_vector", "enable"):
        assert frame.value(f"queue1.{name}") == written[f"queue_{name}"]


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("A loop", "queue 1: chain 0: loops, or is longer than 4 descriptors"),
        ("A head out of range", "queue 1: available entry 0 names descriptor 9 of 4"),
        ("An unreachable address", "queue 1: read of 72 bytes at 0xdead0000: no memory there"),
    ],
)
async def test_a_hostile_chain_latches_the_queue_until_a_reset(title: str, reason: str) -> None:
    done = await frames("hostile")
    broken = titled(done, title)
    assert broken.value("device_status").endswith("NEEDS_RESET")
    assert broken.outcome.endswith(f"The device's reason: {reason}.")
    assert broken.trace[-1].text == "MSI-X vector 0: configuration or status"
    reset = next(frame for frame in done[broken.number :] if frame.step.title == "Reset")
    assert reset.value("device_status") == "0"


async def test_a_latched_queue_takes_no_chain() -> None:
    late = titled(await frames("hostile"), "A good chain, too late")
    assert {one.actor for one in late.trace} == {"driver"}


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
