"""A registry: built-in records, added ones, and those of installed packages, found by their entry points."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from vnet.registry import Registry

GROUP = "vnet.test_records"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution: a folder NAME.dist-info with these entry points, and a module."""

    def install(name: str, module: str, **points: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"{point} = {name}:{attribute}\n" for point, attribute in points.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
        (tmp_path / f"{name}.py").write_text(module)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield install
    for module in set(sys.modules) - before:
        del sys.modules[module]


def registry() -> Registry[int]:
    def check(name: str, record: int) -> None:
        if record < 0:
            raise ValueError(f"{record}: must be at least 0")

    return Registry(GROUP, int, {"one": 1}, check)


def test_a_record_of_an_installed_package_is_there_like_a_built_in_one(install: Install) -> None:
    install("mine", "TWO = 2", two="TWO")
    table = registry()
    assert table["two"] == 2
    assert list(table) == ["one", "two"]
    assert "three" not in table
    with pytest.raises(KeyError, match="three"):
        table["three"]


def test_packages_are_looked_for_only_if_a_name_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: pytest.fail("it looked"))
    assert registry()["one"] == 1


BROKEN = [
    ("import nothing_of_this_name", "A", "No module named 'nothing_of_this_name'"),
    ("A = 'text'", "A", "broken = 'text': must be a int"),
    ("A = -1", "A", "-1: must be at least 0"),
    ("", "A", "module 'mine' has no attribute 'A'"),
    ("import sys\nsys.exit(3)", "A", "it ends the program (SystemExit: 3)"),
    ("raise SystemExit", "A", "it ends the program (SystemExit: None)"),
]


@pytest.mark.parametrize(("module", "attribute", "why"), BROKEN)
def test_a_broken_package_is_one_line_and_left_out(
    install: Install, caplog: pytest.LogCaptureFixture, module: str, attribute: str, why: str
) -> None:
    install("mine", module, broken=attribute)
    install("other", "TWO = 2", two="TWO")
    table = registry()
    assert list(table) == ["one", "two"]
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == f"{GROUP}: broken of package mine is left out: {why}"


def test_a_package_does_not_replace_a_built_in_record(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("mine", "TWO = 2", one="TWO")
    table = registry()
    assert dict(table) == {"one": 1}
    assert "name 'one': already used" in caplog.text


@pytest.mark.parametrize(("name", "record", "why"), [("One", 1, "lower-case"), ("one", 1, "already"), ("x", -1, "0")])
def test_a_record_with_another_name_or_value_is_not_added(name: str, record: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        registry().add(name, record)


def test_records_added_in_a_context_go_with_it() -> None:
    table = registry()
    with table.temporarily():
        table.add("two", 2)
        assert dict(table) == {"one": 1, "two": 2}
    assert dict(table) == {"one": 1}


def test_metadata_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: str) -> NoReturn:
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    monkeypatch.setattr(importlib.metadata, "entry_points", fail)
    with pytest.raises(InterruptedError) as caught:
        list(registry())
    assert caught.value.filename == "the metadata of installed packages"
