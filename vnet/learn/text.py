"""Steps and frames as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from vnet.learn.machine import Trace
from vnet.learn.step import Cell, Frame, Question, Step

__all__ = ["access_lines", "frame_lines", "head_lines", "question_lines"]

WIDTH = 100
FIRST, LAST = 16, 8
"""Accesses of a long step that are shown, at its beginning and at its end."""


def head_lines(lesson: str, number: int, step: Step) -> Iterator[str]:
    """Yield the heading of a step, before it is played."""
    title = f"{lesson} {number}. {step.title}"
    section = f"VIRTIO 1.4, {step.section}"
    yield f"{title}{section:>{max(WIDTH - len(title), len(section) + 2)}}"
    yield "-" * WIDTH


def frame_lines(frame: Frame) -> Iterator[str]:
    """Yield what the step did: its explanation, the words that changed, the accesses in order, the outcome."""
    yield from textwrap.wrap(frame.step.text, WIDTH)
    yield ""
    yield from _changes(frame.changes)
    if frame.trace:
        yield "  in this order"
        yield from (f"    {line}" for line in access_lines(frame.trace))
    if frame.outcome:
        yield from textwrap.wrap(f"=> {frame.outcome}", WIDTH, initial_indent="  ", subsequent_indent="     ")


def question_lines(question: Question) -> Iterator[str]:
    """Yield a question with its numbered choices."""
    yield from textwrap.wrap(f"? {question.text}", WIDTH)
    for number, choice in enumerate(question.choices, 1):
        yield f"    {number}  {choice}"


def _changes(cells: Sequence[Cell]) -> Iterator[str]:
    if not cells:
        yield "  no word changes"
        return
    name, before = (max(len(getattr(cell, key)) for cell in cells) for key in ("name", "before"))
    before = max(before, len("before"))
    yield f"  {'word':{name}}  {'before':{before}}  after"
    for cell in cells:
        yield f"  {cell.name:{name}}  {cell.before:{before}}  {cell.after}"


def access_lines(trace: Sequence[Trace]) -> Iterator[str]:
    """Yield the accesses in order; those in the middle of a long step are counted."""
    act = max((len(one.act) for one in trace), default=0)
    lines = [f"{one.actor:6}  {one.act:{act}}  {one.text}".rstrip() for one in trace]
    more = len(lines) - FIRST - LAST
    yield from [*lines[:FIRST], f"... {more} more", *lines[-LAST:]] if more > 1 else lines
