"""Count the requirements that tests mark, and those of them that have a mutation."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from mutations.marks import read_marks
from mutations.table import Mutation
from support.requirements import read_hostile, read_virtio, split


@attrs.frozen
class Count:
    """The rows of a list, in its order."""

    title: str
    rows: list[str]
    marked: list[str]
    unproved: list[str]
    """Rows that are marked and have no mutation."""

    def sentence(self) -> str:
        proved = len(self.marked) - len(self.unproved)
        return f"Tests mark {len(self.marked)} of {len(self.rows)} {self.title}; mutations prove {proved} of these."

    def areas(self, names: Iterable[str] | None = None) -> dict[str, list[str]]:
        """Names, or all rows, by area."""
        areas: dict[str, list[str]] = {}
        for name in self.rows if names is None else names:
            areas.setdefault(split(name)[0], []).append(name)
        return areas


def count(table: Iterable[Mutation]) -> list[Count]:
    """Count both lists of requirements."""
    marked = read_marks()
    have = {name for mutation in table for name in mutation.ids}
    lists = (("requirements of VIRTIO 1.4", list(read_virtio())), ("bad inputs and faults", read_hostile()))
    return [
        Count(title, rows, [n for n in rows if n in marked], [n for n in rows if n in marked and n not in have])
        for title, rows in lists
    ]
