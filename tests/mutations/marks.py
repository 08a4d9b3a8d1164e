"""Requirements that tests carry in their marks, read from the source without importing a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
LEVELS = ("pure", "sim", "system")
MARKS = frozenset({"virtio", "hostile"})


def _marks(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr=name), args=args) if name in MARKS:
                yield from (str(arg.value) for arg in args if isinstance(arg, ast.Constant))


@cache
def read_file(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Ids that a file of tests marks, and its test functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = (node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    classes = (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assigned = (
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    )
    return frozenset(_marks(tree)), frozenset((*names, *classes, *assigned))


def read_marks() -> dict[str, set[Path]]:
    """The files of tests that mark each id."""
    marked: dict[str, set[Path]] = {}
    for level in LEVELS:
        for path in sorted((TESTS / level).glob("test_*.py")):
            for name in read_file(path)[0]:
                marked.setdefault(name, set()).add(path)
    return marked
