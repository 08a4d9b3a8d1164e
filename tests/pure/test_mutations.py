"""The table of mutations is up to date: each edit applies, and its test is there and marked."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from mutations.edit import CHILDREN, Edit, Stale, edited, is_live, pass_on
from mutations.marks import read_file, read_marks
from mutations.table import Mutation, read_table
from mutations.verdict import Verdict, judge

from support.requirements import read_hostile, read_virtio

TABLE = read_table()


@pytest.mark.parametrize("mutation", TABLE, ids=lambda mutation: mutation.name.replace(" ", "+"))
def test_an_edit_applies_and_its_test_is_marked(mutation: Mutation) -> None:
    """If this fails after a change of the code: write the edit anew, so that it violates the requirement again."""
    for source in edited(mutation.edits).values():
        ast.parse(source)
    marked, names = read_file(mutation.file)
    assert mutation.function in names
    assert set(mutation.ids) <= marked


def test_ids_are_requirements() -> None:
    known = {*read_virtio(), *read_hostile()}
    assert {name for mutation in TABLE for name in mutation.ids} <= known
    assert set(read_marks()) <= known


def test_each_mutation_has_a_name_of_its_own() -> None:
    names = [(mutation.name, mutation.breaks) for mutation in TABLE]
    assert len(set(names)) == len(names)


EDIT = Edit("rings.status", "next_status", "new = old", "new = written")


def test_an_edit_replaces_text_of_its_symbol() -> None:
    source = edited([EDIT])["rings.status"]
    assert "    new = written\n" in source
    assert is_live(EDIT)
    assert not is_live(Edit("rings.status", "MOVES", "Status.FAILED: Status(0),", ""))


def test_processes_that_a_test_starts_get_the_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CHILDREN, "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # and undone after the test
    pass_on([Edit("rings.status", "next_status", "written: int", "value: int")])
    program = "import inspect, rings.status; print(*inspect.signature(rings.status.next_status).parameters)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["old", "value"]


@pytest.mark.parametrize(
    ("symbol", "old"), [("next_status", "nowhere"), ("next_status", "old"), ("no_such", "x"), ("Status.no_such", "x")]
)
def test_an_edit_whose_text_is_not_there_once_is_stale(symbol: str, old: str) -> None:
    with pytest.raises(Stale):
        edited([Edit("rings.status", symbol, old, "")])


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as exc:  # noqa: BLE001  any error is the case
        return exc


@pytest.mark.parametrize(
    ("error", "raises", "verdict"),
    [
        (AssertionError(), "AssertionError", Verdict.CAUGHT),
        (NameError(), "AssertionError", Verdict.WRONG_REASON),
        (NameError(), "ValueError", Verdict.WRONG_REASON),
        (ValueError(), "ValueError", Verdict.CAUGHT),
        (ExceptionGroup("", [AssertionError(), ValueError()]), "AssertionError", Verdict.WRONG_REASON),
    ],
)
def test_only_an_assertion_or_the_named_error_proves_a_mark(error: Exception, raises: str, verdict: Verdict) -> None:
    actual = error if not isinstance(error, ExceptionGroup) else ExceptionGroup("", list(map(raised, error.exceptions)))
    assert judge(raised(actual), raises).verdict is verdict
