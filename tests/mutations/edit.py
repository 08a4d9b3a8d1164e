"""Edits of the code: text replaced inside a named function, class or constant of a module, in memory only."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
CHILDREN = "VNET_EDITED_MODULES"
"""Variable with the edited modules, for the processes that a test starts; `child/sitecustomize.py` reads it."""


class Stale(Exception):
    """The symbol of an edit is gone, or its text is not there exactly once."""


@attrs.frozen
class Edit:
    """Replace ``old``, which stands once in ``symbol`` of ``module``, by ``new``. An empty symbol is the module."""

    module: str
    symbol: str
    old: str
    new: str

    @property
    def is_extension(self) -> bool:
        """Whether the module is an example, which is no package: it is loaded by its path, as a user's file."""
        return self.module.startswith("examples.")

    @property
    def path(self) -> Path:
        place = ROOT.joinpath(*self.module.split("."))
        return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")

    def apply(self, source: str) -> str:
        """Return the source with the edit. Raises Stale."""
        first, last = self._lines(source)
        lines = source.splitlines(keepends=True)
        text = "".join(lines[first:last])
        if (times := text.count(self.old)) != 1:
            raise Stale(f"{self.module}:{self.symbol}: {times} times, not once: {self.old!r}")
        return "".join(lines[:first]) + text.replace(self.old, self.new) + "".join(lines[last:])

    def _lines(self, source: str) -> tuple[int, int]:
        tree: ast.AST = ast.parse(source)
        if not self.symbol:
            return 0, len(source.splitlines())
        for name in self.symbol.split("."):
            node = next((child for child in _statements(tree) if name in _names(child)), None)
            if node is None:
                raise Stale(f"{self.module}: there is no {self.symbol}")
            tree = node
        assert isinstance(tree, ast.stmt)
        decorators = getattr(tree, "decorator_list", [])
        assert tree.end_lineno is not None
        return min(part.lineno for part in (tree, *decorators)) - 1, tree.end_lineno


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements of a body, with those of its if, for, with and try blocks."""
    for name in ("body", "orelse", "finalbody"):
        for statement in getattr(tree, name, ()):
            yield statement
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _statements(statement)


def _names(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def edited(edits: Sequence[Edit]) -> dict[str, str]:
    """Return the source of each module that the edits change. Raises Stale, and SyntaxError for a bad edit."""
    sources: dict[str, str] = {}
    for edit in edits:
        try:
            source = sources.get(edit.module) or edit.path.read_text(encoding="utf-8")
        except OSError as error:
            raise Stale(f"{edit.module}: {error}") from None
        sources[edit.module] = edit.apply(source)
    for module, source in sources.items():
        compile(source, module, "exec")
    return sources


class Finder(MetaPathFinder):
    """Import modules with the edited source. Install it before any of them is imported."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._sources:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self._sources[fullname])
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


def is_live(edit: Edit) -> bool:
    """Tell if the edit lies in a function, so that it can be applied to a module that is imported already."""
    return not edit.is_extension and _function(edit) is not None


def _function(edit: Edit) -> str | None:
    """The dotted name of the outermost function or method that has the whole edit."""
    source = edit.path.read_text(encoding="utf-8")
    tree: ast.AST = ast.parse(source)
    names: list[str] = []
    for name in edit.symbol.split(".") if edit.symbol else ():
        node = next((child for child in _statements(tree) if name in _names(child)), None)
        names.append(name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # A decorator or a default belongs to the statement, not to the code of the function.
            body = "".join(source.splitlines(keepends=True)[node.body[0].lineno - 1 : node.end_lineno])
            return ".".join(names) if edit.old in body else None
        if node is None:
            return None
        tree = node
    return None


def apply_live(edits: Sequence[Edit]) -> None:
    """Give functions of imported modules the code of the edited source."""
    for module, source in edited(edits).items():
        code = compile(source, str(Path(module)), "exec", dont_inherit=True)
        for edit in edits:
            if edit.module == module:
                name = _function(edit)
                assert name is not None
                for function in _functions(importlib.import_module(module), name):
                    function.__code__ = _code(code, name)


def _functions(module: types.ModuleType, name: str) -> Iterator[types.FunctionType]:
    *classes, last = name.split(".")
    holder: object = module
    for part in classes:
        holder = vars(holder)[part]
    value = vars(holder)[last]
    for part in (value, *(getattr(value, name, None) for name in ("fget", "fset", "__func__", "func", "__wrapped__"))):
        while part is not None and hasattr(part, "__wrapped__"):
            part = part.__wrapped__  # noqa: PLW2901
        if isinstance(part, types.FunctionType):
            yield part
            return
    raise TypeError(f"{module.__name__}.{name} is no function")


def _code(code: types.CodeType, name: str) -> types.CodeType:
    """The code of a function by its dotted name; of two with one name, such as a getter and a setter, the first."""
    for part in name.split("."):
        code = next(const for const in code.co_consts if isinstance(const, types.CodeType) and const.co_name == part)
    return code


def install(edits: Sequence[Edit]) -> None:
    """Import the modules, none of which is imported yet, with the edits.

    Now, because pytest puts a finder of its own before ours. Raises any error of the import.
    """
    modules = edited(edits)
    sys.meta_path.insert(0, Finder(modules))
    extensions = {edit.module: str(edit.path) for edit in edits if edit.is_extension}
    _edit_extensions({path: modules[module] for module, path in extensions.items()})
    for module in modules.keys() - extensions:
        importlib.import_module(module)


def _edit_extensions(sources: dict[str, str]) -> None:
    """Load the files with these paths with the edited source."""
    loader = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def get_edited_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> types.CodeType | None:
        source = sources.get(self.path)
        return get_code(self, fullname) if source is None else compile(source, self.path, "exec", dont_inherit=True)

    if sources:
        loader.get_code = get_edited_code  # type: ignore[method-assign,assignment]


def pass_on(edits: Sequence[Edit]) -> None:
    """Have the Python processes that this one starts import the modules with the edits."""
    os.environ[CHILDREN] = json.dumps(edited(edits))
    paths = str(Path(__file__).parent / "child"), os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
