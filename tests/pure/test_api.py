"""Every public name of the packages exists, has a docstring, and stands on the page of the API."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from itertools import pairwise
from types import ModuleType

import pytest

import drivers
import rings
import vnet
from support.paths import ROOT

PACKAGES = (rings, drivers, vnet)
PAGE = set(re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
NAMES = [
    pytest.param(package, name, id=f"{package.__name__}.{name}")
    for package in PACKAGES
    for name in package.__all__
    if name != "__version__"
]


def documented_constants(module: ModuleType) -> set[str]:
    """Return the names of a module that are assigned with a docstring below."""
    body = ast.parse(inspect.getsource(module)).body
    names = set()
    for node, following in pairwise(body):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def home_of(package: ModuleType, name: str) -> ModuleType:
    """Return the module that defines a public name."""
    value = getattr(package, name)
    home = getattr(value, "__module__", None)
    if isinstance(home, str) and home.split(".")[0] == package.__name__:
        return importlib.import_module(home)
    return importlib.import_module(imported_from(package, name))


def imported_from(package: ModuleType, name: str) -> str:
    """Return the name of the module from which the package imports a public name."""
    return next(str(module) for module, names in package._NAMES.items() if name in names)


def shown(place: str) -> set[str]:
    """Return the names that an entry of the page shows: those of a module, or its own."""
    try:
        return set(importlib.import_module(place).__all__)
    except ImportError:
        return {place.rpartition(".")[2]}


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_has_a_docstring(package: ModuleType, name: str) -> None:
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}("), "attrs made this docstring up"
        return
    module = home_of(package, name)
    defining = [other for other in (module, *_siblings(module)) if name in vars(other)]
    assert any(name in documented_constants(other) for other in defining)


def _siblings(module: ModuleType) -> list[ModuleType]:
    """Return the modules of the same package, which may define what the package's face names."""
    if not hasattr(module, "__path__"):
        return []
    return [value for value in vars(module).values() if isinstance(value, ModuleType)]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_stands_on_the_page_of_the_api(package: ModuleType, name: str) -> None:
    home = home_of(package, name).__name__
    source = imported_from(package, name)
    places = {home, f"{home}.{name}", source, f"{source}.{name}"}
    assert places & PAGE


@pytest.mark.parametrize("example", ["my_device.py", "my_transport.py"])
def test_the_names_that_an_extension_imports_stand_on_the_page_of_the_api(example: str) -> None:
    tree = ast.parse((ROOT / "examples" / example).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    ours = [node for node in imports if str(node.module).split(".")[0] in ("rings", "drivers", "vnet")]
    names = {alias.name for node in ours for alias in node.names}
    assert names
    assert not names - {name for place in PAGE for name in shown(place)}


@pytest.mark.parametrize("place", sorted(PAGE))
def test_the_page_of_the_api_names_what_exists(place: str) -> None:
    module, _, name = place.rpartition(".")
    try:
        importlib.import_module(place)
    except ImportError:
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_does_not_exist_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
