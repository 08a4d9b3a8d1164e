"""Documentation is complete and true of the code: generated pages, topologies, links."""

from __future__ import annotations

import importlib
import re
import tomllib
from operator import attrgetter
from pathlib import Path

import attrs
import jsonschema
import pytest

from support.docs import blocks, same_shape
from vnet.topology.reference import json_schema, keys_of, records, reference

ROOT = Path(__file__).parents[2]
TOP_FOLDERS = ("docs", "drivers", "examples", "rings", "tests", "vnet")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
ALL_PAGES = sorted({*PAGES, *ROOT.glob("*.md"), *(p for top in TOP_FOLDERS for p in (ROOT / top).rglob("*.md"))})
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(TOP_FOLDERS)})/[\w./-]+\.(?:py|md|toml|tsv)\b")
"""Path from the root of the tree to a file."""
NAMED_TEST = re.compile(r"pytest (tests/\S+\.py) -k (\w+)")
TOPOLOGIES = sorted((ROOT / "examples").rglob("*.toml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_topology_of_a_page_is_a_good_one(page: Path) -> None:
    from vnet.topology import load, parse
    from vnet.topology.join import NOTHING

    added = page.name == "changing.md"  # to the system that the page begins with
    running = load(ROOT / "examples" / "topologies" / "rc_ep.toml") if added else NOTHING
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "toml":
            assert parse(block.text, f"{page.name}:{block.line}", running).hosts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_program_of_a_page_compiles(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    missing = [path for path in PATH.findall(page.read_text(encoding="utf-8")) if not (ROOT / path).exists()]
    assert not missing


def test_every_test_that_a_page_runs_by_its_name_exists() -> None:
    lines = [match for page in PAGES for match in NAMED_TEST.findall(page.read_text(encoding="utf-8"))]
    assert lines
    for file, name in lines:
        assert re.search(rf"def test_\w*{name}", (ROOT / file).read_text(encoding="utf-8")), (file, name)


def test_every_function_of_the_walks_through_the_code_exists() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    section = text.partition("\n## From a file to a running system\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^\| `([\w/]+)\.py` \| ([^|]+) \|", section, flags=re.MULTILINE)
    assert len(steps) > 20
    for path, functions in steps:
        module = importlib.import_module(path.replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", functions):
            assert callable(attrgetter(name)(module)), (path, name)


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "topologies").glob("*.toml")), ids=lambda file: file.stem)
def test_an_editor_finds_the_schema_of_an_example(file: Path) -> None:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    assert (file.parent / first.removeprefix("#:schema ")).resolve() == ROOT / "docs" / "vnet.schema.json"


MANY = 12
"""Modules above which the README of a folder names each."""


def test_the_readme_of_a_folder_with_many_modules_names_each() -> None:
    missing = []
    for folder in {file.parent for top in ("drivers", "rings", "vnet") for file in (ROOT / top).rglob("*.py")}:
        names = {file.stem for file in folder.glob("*.py")} - {"__init__"}
        if len(names) > MANY:
            named = set(re.findall(r"`(\w+)`", (folder / "README.md").read_text(encoding="utf-8")))
            missing += [f"{folder.relative_to(ROOT)}: {name}" for name in sorted(names - named)]
    assert not missing


def test_the_schema_is_one_and_every_example_satisfies_it() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    known = [file for file in TOPOLOGIES if file.name != "my_device.toml"]
    assert known
    for file in known:
        errors = [error.message for error in validator.iter_errors(tomllib.loads(file.read_text(encoding="utf-8")))]
        assert not errors, file


@pytest.mark.parametrize(
    "text",
    [
        "[hosts.a]\n[hosts.b]\n[links.l]\nroot = 1\nendpoint = 'b'\n[devices.d]\nlink = 'l'",
        "[hosts.a]\nmemroy = 1\n[devices.d]",
        "[hosts.A]\n[devices.d]",
        "[hosts.a]\n[devices.d]\ntype = 'nett'",
        "[hosts.a]\n[devices.d]\ntype = 'blk'\nmac = '02:00:00:00:00:01'",
        "[hosts.a]\n[devices.d]\nring = 'round'",
    ],
)
def test_the_schema_refuses_what_can_not_be(text: str) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not validator.is_valid(tomllib.loads(text))


def test_the_reference_has_every_key_once_per_table() -> None:
    text = reference()
    for record in records():
        assert text.count(f"## `{record.path}`\n") == 1
        for key in record.keys:
            assert f"| `{key.name}` |" in text


def test_defaults_are_shown_as_a_file_would_have_them() -> None:
    @attrs.frozen
    class Sample:
        """A table."""

        on: bool = False
        """Whether it is on."""
        words: tuple[str, ...] = ("a", "b")

    assert [(key.name, key.plain_default, key.doc) for key in keys_of(Sample)] == [
        ("on", True, "Whether it is on."),
        ("words", True, ""),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1.5 ms\nb", "a 22 ms\nb\n", True),
        ("a\n...\nc", "a\nb\nb\nc\n", True),
        ("a\n...\nc", "a\nc\n", True),
        ("a", "b\na\nc\n", True),
        ("a b", "a c\n", False),
        ("a\nc", "a\nb\nc\n", False),
        ("----  --", "-----------  ---\n", True),
        ("mdev = 0.1/0.2 ms", "mdev = 31.5/60.2 ms, pipe 2\n", True),
    ],
)
def test_shown_output_is_compared_apart_from_its_numbers(shown: str, printed: str, same: bool) -> None:
    assert same_shape(shown, printed) is same


def test_every_key_says_what_it_means() -> None:
    silent = [f"{record.path}.{key.name}" for record in records() for key in record.keys if not key.doc]
    assert not silent
