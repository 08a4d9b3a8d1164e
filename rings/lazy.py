"""Public names of a package that are imported when they are used, so that its modules start without the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

__all__ = ["lazy_names"]


def lazy_names(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of ``package``; ``names`` has the public names by module (PEP 562)."""

    def import_name(name: str) -> object:
        for module, public in names.items():
            if name in public:
                return getattr(importlib.import_module(module), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return import_name
