"""The answer of a running system, as records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vnet.qmp.client import ask
from vnet.views.parse import from_answer

__all__ = ["query"]

T = TypeVar("T")


def query(name: str, record: type[T], command: str, arguments: Mapping[str, object] | None = None) -> T:
    """Return the answer of the system ``name`` to a command. Raises ControlError, OSError."""
    return from_answer(name, record, ask(name, command, arguments))
