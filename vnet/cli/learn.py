"""``vnet learn``: lessons in the terminal, as a quiz, or as slides."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import click
import trio

from vnet.cli.common import errors_in_one_line
from vnet.errors import ConfigError
from vnet.learn.lessons import LESSONS
from vnet.learn.quiz import Score, choice_of
from vnet.learn.step import Frame, Lesson, Question, Step, play
from vnet.learn.svg import slide
from vnet.learn.text import frame_lines, head_lines, question_lines

__all__ = ["command"]


class _EndOfInput(Exception):
    """The user ends the lesson."""


def _complete_lessons(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in LESSONS if name.startswith(incomplete)]


@click.command("learn")
@click.argument("lesson", required=False, metavar="[LESSON]", shell_complete=_complete_lessons)
@click.option(
    "--all", "without_stops", is_flag=True, help="Print all steps without stops; without LESSON, of all lessons."
)
@click.option("--quiz", is_flag=True, help="Ask questions before some of the steps, and count the right answers.")
@click.option(
    "--svg",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a slide per step to DIR instead; without LESSON, of all lessons.",
)
@errors_in_one_line
def command(lesson: str | None, without_stops: bool, quiz: bool, svg: Path | None) -> None:
    """Show how virtqueues work, step by step, on real rings.

    Without LESSON, lists the lessons. Each step prints the words of memory that changed, the accesses of driver and
    device in their order, and the section of VIRTIO 1.4. On a terminal, Enter shows the next step and q ends.
    Questions are answered with a number or a word.
    """
    if lesson is not None and lesson not in LESSONS:
        raise ConfigError("", "LESSON", lesson, f"must be one of {', '.join(LESSONS)}")
    if lesson is None and not (without_stops or quiz or svg):
        width = max(map(len, LESSONS))
        click.echo("\n".join(f"{one.name:{width}}  {one.title}" for one in LESSONS.values()))
        return
    chosen = [LESSONS[lesson]] if lesson else list(LESSONS.values())
    if svg is not None:
        slides = _Slides(svg)
        trio.run(_play, chosen, slides)
        click.echo(f"{slides.count} slides in {svg}")
        return
    stops = not without_stops and sys.stdin.isatty() and sys.stdout.isatty()
    reader = _Reader(stops, Score() if quiz else None)
    try:
        trio.run(_play, chosen, reader)
    except* _EndOfInput:
        click.echo()
    if reader.score is not None:
        click.echo(str(reader.score))


class _Viewer(Protocol):
    """Shows a lesson."""

    def before(self, lesson: str, number: int, step: Step) -> None:
        """Handle a step that will be played now."""

    def after(self, frame: Frame) -> None:
        """Show a step that was played."""


async def _play(lessons: Sequence[Lesson], viewer: _Viewer) -> None:
    for lesson in lessons:
        numbers = itertools.count(1)
        async with lesson.open() as machine:
            for moment in play(lesson.name, machine, lesson.steps(machine)):
                match moment:
                    case Step():
                        viewer.before(lesson.name, next(numbers), moment)
                    case Frame():
                        viewer.after(moment)
                    case None:
                        await machine.settle()


class _Slides:
    """Writes a slide per step."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.count = 0

    def before(self, lesson: str, number: int, step: Step) -> None:
        """Do nothing: a slide shows a step that was played."""

    def after(self, frame: Frame) -> None:
        file = self._folder / f"{frame.lesson}-{frame.number:02}.svg"
        file.write_text(slide(frame), encoding="utf-8")
        self.count += 1


class _Reader:
    """Prints steps, stops between them, and asks their questions if there is a score."""

    def __init__(self, stops: bool, score: Score | None) -> None:
        self._stops = stops
        self.score = score
        self._choice: str | None = None
        self._first = True

    def before(self, lesson: str, number: int, step: Step) -> None:
        if self._stops and not self._first and _reply("[Enter: next step, q: end] ").strip().lower().startswith("q"):
            raise _EndOfInput
        self._first = False
        click.echo("\n".join(head_lines(lesson, number, step)))
        self._choice = None if self.score is None or step.question is None else _ask(step.question)

    def after(self, frame: Frame) -> None:
        question = frame.step.question
        if self.score is not None and question is not None and self._choice is not None:
            click.echo(f"  {self.score.judge(question, self._choice, frame)}\n")
        click.echo("\n".join(frame_lines(frame)) + "\n")


def _ask(question: Question) -> str:
    click.echo("\n".join(question_lines(question)))
    while (choice := choice_of(question, reply := _reply("> "))) is None:
        if reply.strip().lower() in {"q", "quit"}:
            raise _EndOfInput
        click.echo(f"Answer with a number from 1 to {len(question.choices)}, or with the word; q ends.")
    return choice


def _reply(prompt: str) -> str:
    """Return a line of standard input. Raises _EndOfInput at its end."""
    click.echo(prompt, nl=False)
    line = sys.stdin.readline()
    if not line:
        raise _EndOfInput
    if not sys.stdin.isatty():
        click.echo(line.rstrip("\n"))  # a terminal shows what is typed
    return line
