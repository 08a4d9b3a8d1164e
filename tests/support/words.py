"""Checks the words of code and pages: ``python tests/support/words.py`` lists each break of a rule.

* Vague words hide the actor: at most one in 10,000 words of comments, strings and pages of a folder, none in a name.
* No docstring, paragraph or help of an option begins with What, Who, Of or By: it is a sentence without its noun.
* Some words say nothing about the thing that a name stands for.
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
PACKAGES = (".", "docs", "rings", "drivers", "vnet", "tests", "examples")
"""Folders; the first one without those below it."""
VAGUE_WORDS = frozenset({"nobody", "somebody", "anybody", "everybody", "whoever", "whatever"})
VAGUE = re.compile(rf"\b({'|'.join(sorted(VAGUE_WORDS))})\b", re.IGNORECASE)
PER_THOUSAND = 0.1
"""Vague words allowed among 1,000."""
RIDDLE = re.compile(r"(What|Who|Of|By)\b")
NAMES = frozenset({"asked", "each_life", "found", "happened", "heard", "look_again", "said", "told", "went_up"})
PARTS = VAGUE_WORDS | {"asked", "heard", "said", "told"}
"""Words that are no part of a name."""
HELP = re.compile(r" +-[\w, -]+?(?: [A-Z\[][^ ]*)?  +(.*)")
"""Option in the help of a command."""
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


def _paragraphs(page: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the beginning of each paragraph, list item and help of an option."""
    before = ""
    for number, text in enumerate(page.splitlines(), 1):
        if option := HELP.match(text):
            yield number, option[1]
        elif not before.strip() or text.startswith("* "):
            yield number, text.lstrip("* ")
        before = text


def _files(package: str) -> Iterator[Path]:
    """Yield the modules and pages of a package."""
    folder = ROOT / package
    for pattern in ("*.md", "*.py"):
        yield from sorted(folder.glob(pattern) if package == "." else folder.rglob(pattern))


def check(package: str) -> Iterator[str]:
    """Yield a line for each break of a rule."""
    words, vague = 0, []
    for file in _files(package):
        if file == Path(__file__):
            continue
        source, place = file.read_text(encoding="utf-8"), file.relative_to(ROOT)
        tree = ast.parse(source if file.suffix == ".py" else "")
        for line, text in _texts(source) if file.suffix == ".py" else enumerate(source.splitlines(), 1):
            words += len(WORD.findall(text))
            vague += [f"{place}:{line}: {word}" for word in VAGUE.findall(text)]
        for line, text in _docstrings(tree) if file.suffix == ".py" else _paragraphs(source):
            if RIDDLE.match(text):
                yield f"{place}:{line}: begin with the noun or the verb: {text.split(maxsplit=4)[:4]}"
        for line, name in _names(tree):
            if name in NAMES or PARTS & {*name.lower().split("_")} or name.startswith(("test_what_", "test_who_")):
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
