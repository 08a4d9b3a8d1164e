"""The answer of a running system, as records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vnet.errors import ControlError
from vnet.qmp.client import ask
from vnet.views.parse import from_plain

__all__ = ["parse", "query"]

T = TypeVar("T")


def query(name: str, record: type[T], command: str, arguments: Mapping[str, object] | None = None) -> T:
    """Return the answer of the system ``name`` to a command. Raises ControlError, OSError."""
    return parse(name, record, ask(name, command, arguments))


def parse(name: str, record: type[T], raw: object) -> T:
    """Return an answer of the system ``name`` as a record. Raises ControlError."""
    try:
        return from_plain(record, raw)
    except ValueError as exc:
        raise ControlError(f"{name} runs another version of vnet: {exc}") from None
