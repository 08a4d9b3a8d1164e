"""Lessons about rings: what a step shows is what happened in memory."""

from __future__ import annotations

import re

import pytest

from support.lessons import RING_LESSONS, frames, ring_lesson
from vnet.learn.ring_machine import MEMORY_SIZE, RingMachine
from vnet.learn.step import Frame, Step, play

LESSONS = pytest.mark.parametrize("name", RING_LESSONS)


def contents(ring: RingMachine) -> bytes:
    return bytes(ring.memory.view(0, MEMORY_SIZE))  # type: ignore[arg-type]  # an int is an address here


@LESSONS
def test_the_words_that_changed_are_the_bytes_that_changed(name: str) -> None:
    ring, steps = ring_lesson(name)
    before = b""
    for moment in play(name, ring, steps):
        if isinstance(moment, Step):
            before = contents(ring)
        elif isinstance(moment, Frame):
            after = contents(ring)
            words = {word.name: word for area in ring.areas for word in area.all}
            named = {at for word in words.values() for at in range(word.addr, word.addr + word.size)}
            changed = {at for at in named if before[at] != after[at]}
            shown = {cell.name for cell in moment.changes}
            assert shown == {
                word.name for word in words.values() if changed & set(range(word.addr, word.addr + word.size))
            }
            assert all(words[cell.name].read() == cell.after for cell in moment.changes)


@LESSONS
def test_every_step_names_a_section_and_explains_itself(name: str) -> None:
    for frame in frames(name):
        assert re.fullmatch(r"2\.[78](\.\d+)*", frame.step.section)
        assert frame.step.title
        assert frame.step.text.endswith(".")


@LESSONS
def test_answers_come_from_the_ring_and_are_among_the_choices(name: str) -> None:
    questions = [(frame.step.question, frame) for frame in frames(name) if frame.step.question is not None]
    assert len(questions) >= 3
    for question, frame in questions:
        assert question.answer(frame) in question.choices


@LESSONS
def test_a_lesson_is_the_same_each_time(name: str) -> None:
    def plain(frame: Frame) -> object:
        return frame.number, frame.outcome, frame.sheets, frame.trace

    assert [plain(frame) for frame in frames(name)] == [plain(frame) for frame in frames(name)]


@LESSONS
def test_both_sides_publish_a_word_then_fence_then_load(name: str) -> None:
    """The fence stands between what a side publishes and the other side's wish for notifications."""
    fences = 0
    for frame in frames(name):
        for at, one in enumerate(frame.trace):
            if one.act == "fence":
                fences += 1
                earlier = [other for other in frame.trace[:at] if other.actor == one.actor]
                later = [other for other in frame.trace[at + 1 :] if other.actor == one.actor]
                assert earlier[-1].act == "store"
                assert later[0].act == "load"
    assert fences


def test_the_machine_runs_between_a_step_and_its_frame() -> None:
    first = [next(moments) for moments in [play("split", *ring_lesson("split"))] for _ in range(3)]
    assert [type(moment) for moment in first] == [Step, type(None), Frame]
