"""The rules about source text that import-linter can't state: read from the syntax tree, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import attrs
import pytest

from support.paths import ROOT

PACKAGES = ("rings", "drivers", "vnet")

RINGS_MAY_IMPORT = {"attrs", "collections", "enum", "functools", "itertools", "struct", "typing"}
RINGS_MAY_IMPORT |= {"__future__", "collections.abc"}
ONLY_THERE = {("rings/__init__.py", "sys"), ("rings/lazy.py", "importlib")}
"""The check for a little-endian machine, and the names that are imported when they are used."""

MAX_LINES = 500


@attrs.frozen
class Import:
    """One imported module, as an absolute name, and whether it is imported along with its importer."""

    module: str
    line: int
    eager: bool


@attrs.frozen
class Source:
    """One file of a package, with its name relative to the root of the project."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    def imports(self) -> Iterator[Import]:
        yield from imports(self.tree, self.name)


def sources(*packages: str) -> list[Source]:
    paths = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def imports(node: ast.AST, name: str, *, eager: bool = True) -> Iterator[Import]:
    """All imports below ``node``; those in functions and under TYPE_CHECKING are not eager."""
    match node:
        case ast.Import():
            yield from (Import(alias.name, node.lineno, eager) for alias in node.names)
        case ast.ImportFrom():
            package = name.removesuffix(".py").split("/")[: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield Import(module, node.lineno, eager)
            # What is named may be a module as well.
            yield from (Import(f"{module}.{alias.name}", node.lineno, eager) for alias in node.names)
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            for guarded in node.body:
                yield from imports(guarded, name, eager=False)
            for other in node.orelse:
                yield from imports(other, name, eager=eager)
        case _:
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for part in ast.iter_child_nodes(node):
                yield from imports(part, name, eager=eager and not lazy)


def in_package(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


# Each rule takes a file and yields (line, what is wrong there).
Findings = Iterator[tuple[int, str]]


def rings_allow_list(source: Source) -> Findings:
    for node in ast.walk(source.tree):
        match node:
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
            case ast.ImportFrom(level=0, module=str(module)):
                names = [module]
            case _:
                continue
        for name in names:
            if name not in RINGS_MAY_IMPORT and (source.name, name) not in ONLY_THERE and not in_package(name, "rings"):
                yield node.lineno, f"rings may not import {name}"


def no_pack_into(source: Source) -> Findings:
    """It zeroes its destination before it stores, which a peer in another process sees."""
    for node in ast.walk(source.tree):
        match node:
            case ast.Attribute(attr="pack_into", lineno=line) | ast.alias(name="pack_into", lineno=line):
                yield line, "pack_into is not atomic: store through a typed view"


def lazy_scapy(source: Source) -> Findings:
    for actual in source.imports():
        if in_package(actual.module, "scapy") and actual.eager:
            yield actual.line, "scapy is imported inside the function that needs it"


def only_cli_talks(source: Source) -> Findings:
    """Printing, reading the command line and ending the process are left to vnet/cli."""
    if in_package(source.name.removesuffix(".py").replace("/", "."), "vnet.cli"):
        return
    for actual in source.imports():
        if actual.module.split(".")[0] in {"click", "rich"}:
            yield actual.line, f"{actual.module} belongs to vnet/cli"
    for node in ast.walk(source.tree):
        match node:
            case ast.Call(func=ast.Name(id="print" | "input" | "exit" | "quit" as name), lineno=line):
                yield line, f"{name}() belongs to vnet/cli"
            case ast.Attribute(
                value=ast.Name(id="sys"), attr="argv" | "exit" | "stdin" | "stdout" | "stderr" as name, lineno=line
            ):
                yield line, f"sys.{name} belongs to vnet/cli"
            case (
                ast.Call(func=ast.Name(id="SystemExit", lineno=line))
                | ast.Raise(exc=ast.Name(id="SystemExit", lineno=line))
            ):
                yield line, "SystemExit belongs to vnet/cli"


def short_enough(source: Source) -> Findings:
    lines = len(source.text.splitlines())
    if lines > MAX_LINES:
        yield lines, f"{lines} lines, at most {MAX_LINES}: split it"


RULES = {
    "rings imports its short list only": (rings_allow_list, ("rings",)),
    "no pack_into where a peer looks on": (no_pack_into, ("rings", "drivers")),
    "vnet imports scapy lazily": (lazy_scapy, ("vnet",)),
    "only vnet/cli prints or exits": (only_cli_talks, PACKAGES),
    "modules are short": (short_enough, PACKAGES),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_packages_keep_the_rule(rule: str) -> None:
    find, packages = RULES[rule]
    files = sources(*packages)
    assert files
    actual = [f"{source.name}:{line}: {what}" for source in files for line, what in find(source)]
    assert not actual, "\n".join(actual)


BROKEN = [
    ("rings imports its short list only", "rings/a.py", "import os"),
    ("rings imports its short list only", "rings/a.py", "def f():\n    from time import monotonic"),
    ("rings imports its short list only", "rings/a.py", "import sys"),
    ("rings imports its short list only", "rings/a.py", "from drivers import hw"),
    ("rings imports its short list only", "rings/a.py", "import collections.nothing"),
    ("no pack_into where a peer looks on", "rings/a.py", "struct.pack_into('<H', b, 0, 1)"),
    ("no pack_into where a peer looks on", "drivers/a.py", "from struct import pack_into"),
    ("no pack_into where a peer looks on", "drivers/a.py", "DESC = Struct('<QIHH').pack_into"),
    ("vnet imports scapy lazily", "vnet/a.py", "from scapy.all import IP"),
    ("vnet imports scapy lazily", "vnet/a.py", "class A:\n    import scapy"),
    ("vnet imports scapy lazily", "vnet/a.py", "try:\n    import scapy\nexcept ImportError: pass"),
    ("only vnet/cli prints or exits", "vnet/a.py", "print(1)"),
    ("only vnet/cli prints or exits", "drivers/a.py", "sys.exit(1)"),
    ("only vnet/cli prints or exits", "vnet/a.py", "raise SystemExit(1)"),
    ("only vnet/cli prints or exits", "vnet/a.py", "raise SystemExit"),
    ("only vnet/cli prints or exits", "vnet/a.py", "import click"),
    ("modules are short", "vnet/a.py", "pass\n" * 501),
]

SOUND = [
    ("rings imports its short list only", "rings/__init__.py", "import sys"),
    ("rings imports its short list only", "rings/a.py", "from collections.abc import Iterator\nfrom . import errors"),
    ("vnet imports scapy lazily", "vnet/a.py", "def f():\n    from scapy.all import IP"),
    ("vnet imports scapy lazily", "vnet/a.py", "if TYPE_CHECKING:\n    from scapy.packet import Packet"),
    ("only vnet/cli prints or exits", "vnet/cli/a.py", "import click\nprint(1)\nsys.exit(1)"),
    ("only vnet/cli prints or exits", "vnet/cli.py", "print(1)"),
    ("only vnet/cli prints or exits", "vnet/a.py", "try:\n    import mine\nexcept SystemExit: pass"),
    ("modules are short", "vnet/a.py", "pass\n" * 500),
]


@pytest.mark.parametrize(("rule", "name", "text"), BROKEN)
def test_a_rule_notices_what_breaks_it(rule: str, name: str, text: str) -> None:
    assert list(RULES[rule][0](Source(name, text)))


@pytest.mark.parametrize(("rule", "name", "text"), SOUND)
def test_a_rule_lets_pass_what_keeps_it(rule: str, name: str, text: str) -> None:
    assert not list(RULES[rule][0](Source(name, text)))


def test_every_package_says_that_it_is_typed() -> None:
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").exists()] == []
