"""The build of the native plain path: beside its sources, or one line if there is no compiler."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from support.paths import ROOT


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(hook: ModuleType, tmp_path: Path) -> Path:
    for source in hook.SOURCES:
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        for path in (ROOT / source).parent.glob("*.[ch]"):
            shutil.copy(path, (tmp_path / source).parent)
    return tmp_path


def test_without_a_compiler_one_line_says_so(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    stale = (tree / hook.SOURCES[0]).with_suffix(hook.SUFFIX)
    stale.touch()
    assert hook.build(tree) == {}
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("vnet-virtio: no native plain path, Python does its work: ")
    assert not stale.exists()


def test_a_source_that_does_not_compile_leaves_none(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    assert hook.build(tree) == {}
    assert not list(tree.rglob("*.so"))


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_each_source_compiles_without_a_warning(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CFLAGS", "-Werror")
    built = hook.build(tree)
    if "Python.h" in capfd.readouterr().err:
        pytest.skip("no headers of this Python")
    assert sorted(built.values()) == sorted(str(Path(source).with_suffix(".abi3.so")) for source in hook.SOURCES)
    assert all(Path(path).is_file() for path in built)


def test_the_sources_stay_below_1500_lines(hook: ModuleType) -> None:
    assert sum(len((ROOT / source).read_text().splitlines()) for source in hook.SOURCES) < 1500
