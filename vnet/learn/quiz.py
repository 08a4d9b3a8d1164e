"""Checks replies to questions, and counts."""

from __future__ import annotations

import attrs

from vnet.learn.step import Frame, Question

__all__ = ["Score", "choice_of"]


def choice_of(question: Question, reply: str) -> str | None:
    """Return the choice that a reply means: its number, its text, or an unambiguous beginning of it. Else None."""
    reply = reply.strip().lower()
    if reply in (choices := [choice.lower() for choice in question.choices]):
        return question.choices[choices.index(reply)]
    if reply.isdecimal() and 1 <= int(reply) <= len(choices):
        return question.choices[int(reply) - 1]
    begins = [choice for choice in question.choices if reply and choice.lower().startswith(reply)]
    return begins[0] if len(begins) == 1 else None


@attrs.define
class Score:
    """Right and wrong answers so far."""

    right: int = 0
    questions: int = 0

    def judge(self, question: Question, choice: str, frame: Frame) -> str:
        """Count an answer, and return a line about it."""
        answer = question.answer(frame)
        self.questions += 1
        self.right += choice == answer
        return f"Right: {answer}." if choice == answer else f"Wrong: {choice}. It is {answer}."

    def __str__(self) -> str:
        return f"{self.right} of {self.questions} answers are right."
