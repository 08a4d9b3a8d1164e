"""Lessons, played to their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

from vnet.learn.lessons import LESSONS
from vnet.learn.ring_machine import RingMachine
from vnet.learn.step import Frame, Step, play

__all__ = ["RING_LESSONS", "frames", "live_frames", "ring_lesson", "titled"]

RING_LESSONS = ("split", "packed", "indirect", "event-idx")
"""Names of the lessons about bare rings."""


def ring_lesson(name: str) -> tuple[RingMachine, Iterator[Step]]:
    """The machine of a lesson about bare rings, and the steps on it."""
    lesson = LESSONS[name]
    opened = lesson.open()
    assert isinstance(opened, nullcontext)
    return opened.enter_result, lesson.steps(opened.enter_result)


def frames(name: str) -> list[Frame]:
    """All frames of a lesson about bare rings."""
    return [moment for moment in play(name, *ring_lesson(name)) if isinstance(moment, Frame)]


async def live_frames(name: str) -> list[Frame]:
    """All frames of a lesson on a real function. Raises AssertionError if the answer to a question is no choice."""
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
    """The first frame with this title."""
    return next(frame for frame in done if frame.step.title == title)
