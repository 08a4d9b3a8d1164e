"""Steps of a lesson, and the frames that they become when they are played on a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

from vnet.learn.machine import Machine, Trace

__all__ = ["Cell", "Frame", "Lesson", "Question", "Sheet", "Step", "play", "yes_or_no"]


@attrs.frozen
class Question:
    """A question about a step, to ask before it is played."""

    text: str
    choices: tuple[str, ...]
    answer: Callable[[Frame], str]
    """Returns the right choice, computed from the played step."""


@attrs.frozen
class Step:
    """One step: an act of the driver or of the device, and its explanation."""

    title: str
    text: str
    section: str
    """Section of VIRTIO 1.4."""
    act: Callable[[], Any]
    outcome: Callable[[Any], str] = lambda _: ""
    """Returns a sentence about the result of ``act``, once the device has run."""
    question: Question | None = None


@attrs.frozen
class Cell:
    """A word before and after a step."""

    name: str
    before: str
    after: str

    @property
    def changed(self) -> bool:
        return self.before != self.after


@attrs.frozen
class Sheet:
    """An area before and after a step; see `vnet.learn.machine.Area`."""

    title: str
    writer: str
    words: tuple[Cell, ...]
    slots: tuple[tuple[Cell, ...], ...]
    circle: bool

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (*self.words, *(cell for slot in self.slots for cell in slot))


@attrs.frozen
class Frame:
    """A step that was played."""

    lesson: str
    number: int
    """Number of the step, from 1."""
    step: Step
    result: Any
    """Result of the step's act."""
    outcome: str
    sheets: tuple[Sheet, ...]
    trace: tuple[Trace, ...]
    """Accesses of both sides, in order."""

    @property
    def changes(self) -> tuple[Cell, ...]:
        """Words that the step changed."""
        return tuple(cell for sheet in self.sheets for cell in sheet.cells if cell.changed)

    def value(self, name: str) -> str:
        """Return a word's value after the step. Raises KeyError."""
        return {cell.name: cell.after for sheet in self.sheets for cell in sheet.cells}[name]

    def stores(self, actor: str) -> list[str]:
        """Return the names of the words that one side stored, in order."""
        return [name for one in self.trace if one.actor == actor and one.act == "store" for name in one.names]


@attrs.frozen
class Lesson:
    """A lesson: its machine, and its steps on that machine."""

    name: str
    title: str
    open: Callable[[], AbstractAsyncContextManager[Any]]
    """Opens the machine."""
    steps: Callable[[Any], Iterator[Step]]


def yes_or_no(text: str, answer: Callable[[Frame], object]) -> Question:
    """Return a question whose right choice is yes if ``answer`` returns a true value."""
    return Question(text, ("yes", "no"), lambda frame: "yes" if answer(frame) else "no")


def play(lesson: str, machine: Machine, steps: Iterable[Step]) -> Iterator[Step | Frame | None]:
    """Play ``steps`` on ``machine``: yields each step before its act, None while the device runs, then the frame.

    At each None the caller awaits ``machine.settle()``, except if the machine is a bare ring, which has no tasks.
    """
    for number, step in enumerate(steps, 1):
        yield step
        before = _values(machine)
        machine.trace.clear()
        result = step.act()
        yield None
        yield Frame(lesson, number, step, result, step.outcome(result), _sheets(machine, before), tuple(machine.trace))


def _values(machine: Machine) -> dict[str, str]:
    return {word.name: word.read() for area in machine.areas for word in area.all}


def _sheets(machine: Machine, before: dict[str, str]) -> tuple[Sheet, ...]:
    after = _values(machine)
    cells = {name: Cell(name, before.get(name, ""), value) for name, value in after.items()}
    return tuple(
        Sheet(
            area.title,
            area.writer,
            tuple(cells[word.name] for word in area.words),
            tuple(tuple(cells[word.name] for word in slot) for slot in area.slots),
            area.circle,
        )
        for area in machine.areas
    )
