"""Marks that tie tests to requirements, and reports of which requirements have a test.

``@pytest.mark.virtio("SPLIT-DRV-3")`` names requirements of VIRTIO 1.4 (data/virtio-requirements.tsv),
``@pytest.mark.hostile("R04")`` rows of the list of bad inputs (data/hostile-inputs.md). An id that stands in
neither table fails the collection, so that a typing error can't pass for a covered requirement.
``pytest --virtio-report`` and ``pytest --hostile-report`` collect, print who is covered, and run nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest

DATA = Path(__file__).parents[1] / "data"


def read_virtio() -> dict[str, dict[str, str]]:
    """Rows by ids such as NET-DEV-12, in the order of the specification."""
    with (DATA / "virtio-requirements.tsv").open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}


def read_hostile() -> list[str]:
    """Ids such as R04: the first cell of each row of the tables, whose other word is its priority."""
    text = (DATA / "hostile-inputs.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([A-Z]\d+)(?: first)? \|", text, flags=re.MULTILINE)


@attrs.frozen
class Table:
    """One list of requirements and the mark that refers to it."""

    mark: str
    title: str
    read: Callable[[], Iterable[str]]

    @property
    def flag(self) -> str:
        return f"--{self.mark}-report"


TABLES = (
    Table("virtio", "requirements of VIRTIO 1.4", read_virtio),
    Table("hostile", "bad inputs and faults", read_hostile),
)
MARKED = pytest.StashKey[dict[str, set[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("requirements")
    for table in TABLES:
        group.addoption(
            table.flag,
            action="store_true",
            help=f"list which {table.title} have tests that are marked with them; runs no test",
        )


def pytest_configure(config: pytest.Config) -> None:
    for table in TABLES:
        config.addinivalue_line("markers", f"{table.mark}(*ids): shows these {table.title} (ids from tests/data)")
    config.stash[MARKED] = {}


@pytest.hookimpl(tryfirst=True)  # before anything is deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    faults: list[str] = []
    for table in TABLES:
        known = set(table.read())
        marked = config.stash[MARKED].setdefault(table.mark, set())
        for item in items:
            for mark in item.iter_markers(table.mark):
                faults += [f"{item.nodeid}: {fault}" for fault in check(mark, known)]
                marked.update(name for name in mark.args if name in known)
    if faults:
        raise pytest.UsageError(*dict.fromkeys(faults))


def check(mark: pytest.Mark, known: set[str]) -> Iterator[str]:
    """The defect of a mark: no id, or an id that is in no table."""
    if not mark.args or mark.kwargs:
        yield f"mark {mark.name!r} takes ids, at least one, and nothing else"
    for name in mark.args:
        if name not in known:
            yield f"unknown {mark.name} id {name!r}"


def reports(config: pytest.Config) -> list[Table]:
    return [table for table in TABLES if config.getoption(table.flag)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """A report needs the collection only; an answer here keeps every test from running."""
    return True if reports(session.config) and not session.testsfailed else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for table in reports(config):
        terminalreporter.section(f"{table.mark}: {table.title}")
        for line in render(list(table.read()), config.stash[MARKED].get(table.mark, set())):
            terminalreporter.line(line)


def render(ids: Sequence[str], covered: set[str]) -> Iterator[str]:
    """Per area, which is an id without its number: the counts, then both lists."""
    areas: dict[str, list[str]] = {}
    for name in ids:
        areas.setdefault(split(name)[0], []).append(name)
    for area, names in areas.items():
        have = [name for name in names if name in covered]
        lack = [name for name in names if name not in covered]
        yield f"{area.rstrip('-'):<12} covered {len(have):>3}   uncovered {len(lack):>3}   of {len(names):>3}"
        yield from (f"    {word:<10} {ranges(part)}" for word, part in (("covered", have), ("uncovered", lack)) if part)
    yield f"{'all':<12} covered {len(covered):>3}   uncovered {len(set(ids) - covered):>3}   of {len(ids):>3}"


def split(name: str) -> tuple[str, str]:
    """Area and number: ("NET-DEV-", "12"), ("R", "04")."""
    number = re.search(r"\d+$", name)
    assert number is not None, name
    return name[: number.start()], number.group()


def ranges(names: Iterable[str]) -> str:
    """Ids of one area, neighbours joined: ``NET-DEV-1..4 NET-DEV-7``."""
    runs: list[tuple[str, str]] = []
    for name in names:
        if runs and int(split(runs[-1][1])[1]) + 1 == int(split(name)[1]):
            runs[-1] = (runs[-1][0], name)
        else:
            runs.append((name, name))
    return " ".join(first if first == last else f"{first}..{split(last)[1]}" for first, last in runs)
