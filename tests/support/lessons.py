"""Lessons, played to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vnet.learn import event_idx, indirect, packed, split
from vnet.learn.lessons import LESSONS
from vnet.learn.ring_machine import RingMachine
from vnet.learn.step import Frame, Step, play

__all__ = ["RING_LESSONS", "frames", "live_frames", "titled"]

RING_LESSONS: dict[str, tuple[Callable[[], RingMachine], Callable[[RingMachine], Iterator[Step]]]] = {
    module.LESSON.name: (module.machine, module.steps) for module in (split, packed, indirect, event_idx)
}
"""Machine and steps by name."""


def frames(name: str) -> list[Frame]:
    """All frames of a lesson about bare rings."""
    machine, steps = RING_LESSONS[name]
    ring = machine()
    return [moment for moment in play(name, ring, steps(ring)) if isinstance(moment, Frame)]


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
