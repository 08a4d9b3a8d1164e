"""Rules for names of systems, their parts, and what they make on the machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["FILE_NAME", "NAME", "NAME_MAX", "NAME_RULE", "named", "system_option"]

T = TypeVar("T")

NAME_MAX = 32
"""Characters of the longest name."""
NAME = re.compile(rf"[a-z][a-z0-9_-]{{0,{NAME_MAX - 1}}}")
"""Names of systems, hosts, links, NTBs and devices, and of records of a registry."""
NAME_RULE = "must be a lower-case letter, then at most 31 lower-case letters, digits, - and _"
"""Reason given for a bad name."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
"""Names of namespaces and interfaces, which the kernel shows as files."""


def system_option(system: str) -> str:
    """Return what follows a command of `vnet` so that it is about this system: nothing if it has the default name."""
    return "" if system == "vnet" else f" --name {system}"


def named(kind: str, things: Mapping[str, T], name: str, error: Callable[[str], Exception], where: str = "") -> T:
    """Return the thing with this name. Raises ``error``: ``where``, the name, and the names of all of this ``kind``."""
    if name in things:
        return things[name]
    why = f"must be one of {', '.join(things)}" if things else f"there is no {kind}"
    raise error(f"{where}{kind} {name!r}: {why}")
