"""The edits, one file for each area of requirements."""

from __future__ import annotations

import tomllib
from pathlib import Path

import attrs

from mutations.edit import Edit

HERE = Path(__file__).parent
TESTS = HERE.parents[1]


@attrs.frozen
class Mutation:
    """An edit of the code that violates requirements, and the test that must notice it."""

    ids: tuple[str, ...]
    breaks: str
    """Sentence that says how the edited code behaves."""
    test: str
    """File below tests/, a colon twice, and the function, with the id of its parameters if only one set counts."""
    edits: tuple[Edit, ...]
    raises: str = "AssertionError"
    """Class of the error with which the test notices: that of an assertion, or an error of the other side's checks."""
    transport: str = "pci"
    """For tests that run on each transport."""

    @property
    def name(self) -> str:
        return " ".join(self.ids)

    @property
    def file(self) -> Path:
        return TESTS / self.test.partition("::")[0]

    @property
    def function(self) -> str:
        return self.test.partition("::")[2].partition("[")[0].rpartition("::")[2]


def _edit(row: dict[str, str]) -> Edit:
    module, _, symbol = row["in"].partition(":")
    return Edit(module, symbol, row["old"], row["new"])


def _mutation(row: dict[str, object]) -> Mutation:
    also = row.pop("also", [])
    assert isinstance(also, list)
    edits = tuple(_edit(part) for part in ({key: row.pop(key) for key in ("in", "old", "new")}, *also))
    ids = tuple(str(row.pop("ids")).split())
    return Mutation(ids=ids, edits=edits, **row)  # type: ignore[arg-type]


def read_table() -> list[Mutation]:
    """All mutations, in the order of the files. Raises TypeError or KeyError for a row that is none."""
    table: list[Mutation] = []
    for path in sorted(HERE.glob("*.toml")):
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]
        table += [_mutation(row) for row in rows]
    return table
