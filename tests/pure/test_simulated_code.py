"""Simulated code has no clock, dice, thread or order of its own, which would make a run differ from its repetition."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.paths import ROOT

SIMULATED = (
    *("rings", "drivers", "vnet/emitters", "vnet/ends", "vnet/host", "vnet/link", "vnet/pcie", "vnet/sim"),
    *("vnet/system", "vnet/topology", "vnet/views", "vnet/ports/packet/memory.py", "vnet/ports/rpmsg/surface.py"),
)
"""Folders and modules that a simulation may run."""
OUTSIDE: Mapping[str, str] = {
    "drivers/fields.py": "values of TOML may be dates",
    "drivers/testing.py": "fakes for tests",
    "rings/testing": "kits for tests",
    "vnet/ends/blk/demo.py": "the demonstration runs programs",
    "vnet/system/claim.py": "the file of a system that other processes see; a simulation has none",
    "vnet/system/state.py": "the same",
}
"""Parts of these that no simulation runs, or that may have such things, with the reason."""
ORDERED: Mapping[tuple[str, str], str] = {
    ("drivers/storage/submit.py", "_waits"): "each scope is cancelled, and the order of tasks is the scheduler's",
    ("vnet/link/faults.py", "requests"): "they are sorted into words, or the first impossible one is an error",
    ("vnet/topology/structure.py", "invalid"): "they become a set again",
    ("vnet/link/judged.py", "_windows"): "each window gets or loses the same overlay",
    ("vnet/link/judged.py", "_judged"): "the same",
}
"""Sets of objects by module and name whose order has no effect, with the reason."""
MODULES = frozenset({"asyncio", "concurrent", "datetime", "multiprocessing", "secrets", "threading", "time", "uuid"})
SETS = frozenset({"set", "frozenset", "Set", "AbstractSet", "WeakSet"})
TAKES_ALL = frozenset({"list", "tuple", "iter", "enumerate", "next"})
"""Functions that keep the order of their argument."""


def modules() -> Iterator[Path]:
    for place in SIMULATED:
        path = ROOT / place
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = module.relative_to(ROOT).as_posix()
            if not any(name == outside or name.startswith(f"{outside}/") for outside in OUTSIDE):
                yield module


def breaks(source: str, module: str = "") -> Iterator[str]:
    """Yield a line for each clock, dice, thread and order of objects in the source of a module."""
    tree = ast.parse(source)
    sets = {name for node in ast.walk(tree) for name in _set_names(node)}
    for node in ast.walk(tree):
        for text in (*_imports(node), *_calls(node), *_orders(node, sets)):
            if (module, text.rpartition(" ")[2]) not in ORDERED:
                yield f"{module}:{getattr(node, 'lineno', 0)}: {text}"


def _imports(node: ast.AST) -> Iterator[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    yield from (f"imports {name}" for name in names if name.partition(".")[0] in MODULES)


def _calls(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and node.attr in {"to_thread", "urandom", "SystemRandom"}:
        yield f"uses {node.attr}"
    if isinstance(node, ast.Call):
        words = ast.unparse(node.func)
        if words in {"random.Random", "Random"} and not (node.args or node.keywords):
            yield "makes random numbers without a seed"
        elif words.rpartition(".")[0] == "random" and words != "random.Random":
            yield f"uses the generator of all: {words}"
        elif words == "hash":
            yield "uses hash, which differs from one process to the next"
        elif words in {"sorted", "min", "max"} and any(
            keyword.arg == "key" and ast.unparse(keyword.value) == "id" for keyword in node.keywords
        ):
            yield "orders objects by their addresses"


def _set_names(node: ast.AST) -> Iterator[str]:
    """Yield the name of a variable or attribute that is a set of anything but integers."""
    if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
        annotation = node.annotation
        kind = annotation.value if isinstance(annotation, ast.Subscript) else annotation
        of = ast.unparse(annotation.slice) if isinstance(annotation, ast.Subscript) else ""
        if ast.unparse(kind).rpartition(".")[2] in SETS and of != "int":
            target = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            yield target.removeprefix("self.")


def _orders(node: ast.AST, sets: set[str]) -> Iterator[str]:
    """Yield a break for each place that goes through a set in the order that it happens to have."""
    iterated: list[ast.expr] = []
    if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        iterated.append(node.iter)
    elif isinstance(node, ast.Starred):
        iterated.append(node.value)
    elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in TAKES_ALL:
        iterated.append(node.args[0])
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "pop"
        and not node.args
    ):
        iterated.append(node.func.value)
    for expression in iterated:
        name = ast.unparse(expression).removeprefix("self.")
        if name in sets:
            yield f"depends on the order of the set {name}"
        elif isinstance(expression, ast.Set | ast.SetComp):
            yield "depends on the order of a set"


def test_simulated_modules_have_no_clock_no_dice_no_thread_and_no_order_of_their_own() -> None:
    named = ((module, module.relative_to(ROOT).as_posix()) for module in modules())
    assert [text for module, name in named for text in breaks(module.read_text(encoding="utf-8"), name)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from datetime import datetime",
        "import threading",
        "import random\nrandom.random()",
        "import random\nrandom.Random()",
        "import trio\nawait_ = trio.to_thread",
        "waiting: set[Task] = set()\nfor task in waiting: pass",
        "class A:\n def f(self, own: set[str]):\n  return list(own)",
        "names = [name for name in {1, 2}]",
        "def f(own: frozenset[Key]): return own.pop()",
        "first = sorted(things, key=id)",
        "place = hash(name)",
    ],
)
def test_each_of_them_is_noticed(source: str) -> None:
    assert list(breaks(source))


@pytest.mark.parametrize(
    "source",
    [
        "import random\nrandom.Random(7)",
        "heads: set[int] = set()\nfor head in heads: pass",
        "names: set[str] = set()\nfor name in sorted(names): pass",
        "from trio import sleep",
    ],
)
def test_an_order_that_is_always_the_same_is_none(source: str) -> None:
    assert not list(breaks(source))


def test_the_lists_name_files_that_exist() -> None:
    assert all((ROOT / name).exists() for name in (*SIMULATED, *OUTSIDE))
    assert all(name in (ROOT / module).read_text(encoding="utf-8") for module, name in ORDERED)
