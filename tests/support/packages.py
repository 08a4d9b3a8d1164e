"""Packages that a test hides, as on a machine without an extra."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

__all__ = ["hide"]


def hide(monkeypatch: pytest.MonkeyPatch, package: str, users: str) -> None:
    """Let imports of ``package`` fail until the end of the test, also in our modules below ``users``."""

    def without(name: str, *args: Any, **kwargs: Any) -> object:
        if name.startswith(package):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    real = builtins.__import__
    for name in [name for name in sys.modules if name.startswith((package, users))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
