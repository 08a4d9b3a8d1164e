"""A quiz takes numbers, words and beginnings of words, and counts."""

from __future__ import annotations

import pytest

from support.lessons import RING_LESSONS, frames
from vnet.learn.quiz import Score, choice_of
from vnet.learn.step import Question

WORDS = Question("Which?", ("avail.idx", "avail.ring[0]", "used.idx"), lambda frame: "used.idx")
NUMBERS = Question("How many?", ("0", "4", "16"), lambda frame: "4")


@pytest.mark.parametrize(
    ("question", "reply", "choice"),
    [
        (WORDS, "3", "used.idx"),
        (WORDS, " USED.IDX\n", "used.idx"),
        (WORDS, "u", "used.idx"),
        (WORDS, "avail", None),
        (WORDS, "avail.i", "avail.idx"),
        (WORDS, "", None),
        (WORDS, "0", None),
        (WORDS, "9", None),
        (NUMBERS, "4", "4"),
        (NUMBERS, "3", "16"),
        (NUMBERS, "0", "0"),
    ],
)
def test_a_reply_means_a_choice_or_none(question: Question, reply: str, choice: str | None) -> None:
    assert choice_of(question, reply) == choice


@pytest.mark.parametrize("name", RING_LESSONS)
@pytest.mark.parametrize("right", [True, False])
def test_answers_are_judged_by_the_ring(name: str, right: bool) -> None:
    score = Score()
    for frame in frames(name):
        question = frame.step.question
        if question is not None:
            answer = question.answer(frame)
            choice = answer if right else next(one for one in question.choices if one != answer)
            line = score.judge(question, choice, frame)
            assert line.startswith("Right" if right else "Wrong")
            assert answer in line
    assert score.questions > 2
    assert score.right == (score.questions if right else 0)
    assert str(score) == f"{score.right} of {score.questions} answers are right."
