"""The ``vnet`` command: the only package that prints, reads argv or exits.

``main`` is the command group. It is imported at first use: `vnet.cli.start` must run before slow imports do.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing, which is slow to import
if TYPE_CHECKING:
    from vnet.cli.group import main

__all__ = ["main"]


def __getattr__(name: str) -> object:
    if name != "main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vnet.cli.group import main

    return main
