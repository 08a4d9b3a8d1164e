"""Checks the words of comments, docstrings and messages: ``python tests/support/words.py`` lists what breaks a rule.

* Per package at most one of the words below in 10,000: they hide who acts.
* No docstring begins with What, Who, Of or By: it is a sentence without its noun.
* Some names say nothing of what they hold.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("rings", "drivers", "vnet", "tests", "examples")
VAGUE = re.compile(r"\b(nobody|somebody|anybody|everybody|whoever|whatever)\b", re.IGNORECASE)
PER_THOUSAND = 0.1
"""Vague words allowed among 1,000."""
RIDDLE = re.compile(r"(What|Who|Of|By)\b")
NAMES = frozenset({"asked", "each_life", "found", "happened", "heard", "look_again", "said", "told", "went_up"})
WORD = re.compile(r"[A-Za-z]+")
DEFINITIONS = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment and string that is prose."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
            yield token.start[0], token.string


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of docstrings, and of strings that stand below a constant or a field."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                value = statement.value.value
                if isinstance(value, str):
                    yield statement.lineno, value


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of everything that is bound."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def check(package: str) -> Iterator[str]:
    """A line for everything that breaks a rule."""
    words, vague = 0, []
    for file in sorted((ROOT / package).rglob("*.py")):
        if file == Path(__file__):
            continue
        source, place = file.read_text(encoding="utf-8"), file.relative_to(ROOT)
        for line, text in _texts(source):
            words += len(WORD.findall(text))
            vague += [f"{place}:{line}: {word}" for word in VAGUE.findall(text)]
        tree = ast.parse(source)
        for line, text in _docstrings(tree):
            if RIDDLE.match(text):
                yield f"{place}:{line}: begin with the noun or the verb: {text.split(maxsplit=4)[:4]}"
        for line, name in _names(tree):
            if name in NAMES:
                yield f"{place}:{line}: say what {name!r} is"
    if len(vague) > words * PER_THOUSAND / 1000:
        yield from vague


def main(packages: list[str]) -> int:
    """The exit status."""
    lines = [line for package in packages or PACKAGES for line in check(package)]
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
