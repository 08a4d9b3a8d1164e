"""A case: one sentence, and a function that makes a device keep or break it. Tables of cases are made by decorators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import attrs

from vnet.check.trial import TrialOf
from vnet.check.verdicts import Level

__all__ = ["Case", "Table", "select"]

Function = Callable[[TrialOf[Any]], Awaitable[str | None]]
"""Returns what was seen if the device kept the sentence, or None; raises `Broken`, `Skipped` or `PeerError`."""


@attrs.frozen
class Case:
    """One case. ``id`` is that of a requirement or of a hostile row, with a word if the row has several cases."""

    id: str
    title: str
    area: str
    section: str
    """Section of VIRTIO 1.4, or message of the vhost-user specification."""
    level: Level
    run: Function
    types: frozenset[str] = frozenset()
    """Device types that it applies to; empty for all."""
    writes: bool = False
    """Whether it writes data to a disk."""
    carrier: str = ""
    """Protocol that it needs, such as vhost-user; "" for any."""

    @property
    def row(self) -> str:
        """The id of the requirement or hostile row."""
        return self.id.partition(".")[0]


class Table:
    """The cases of one area, in the order in which they were added."""

    def __init__(self, area: str, *types: str, carrier: str = "") -> None:
        """``types`` and ``carrier`` are what all its cases need; none if they apply to every type and carrier."""
        self.area = area
        self.carrier = carrier
        self.types = frozenset(types)
        self.cases: list[Case] = []

    def add(
        self,
        ident: str,
        title: str,
        section: str,
        level: Level = Level.SAFETY,
        *,
        writes: bool = False,
        carrier: str = "",
    ) -> Callable[[Function], Function]:
        """Return a decorator that adds a function as a case."""

        def decorate(run: Function) -> Function:
            needs = carrier or self.carrier
            self.cases.append(Case(ident, title, self.area, section, level, run, self.types, writes, needs))
            return run

        return decorate


def select(cases: Iterable[Case], words: Sequence[str]) -> list[Case]:
    """Return the cases that any word names: an id, the beginning of ids, an area, or the beginning of a section.

    All of them without words. Raises LookupError for a word that names none.
    """
    known = list(cases)
    if not words:
        return known
    chosen: set[str] = set()
    for word in words:
        exact = [case for case in known if word in (case.id, case.row, case.area)]
        named = exact or [case for case in known if _names(word, case)]
        if not named:
            raise LookupError(f"no case is named {word!r}; --list prints all of them")
        chosen.update(case.id for case in named)
    return [case for case in known if case.id in chosen]


def _names(word: str, case: Case) -> bool:
    return case.id.startswith(word) or case.section == word or case.section.startswith(word + ".")
