"""Topology files on the command line: a path, or - for standard input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from vnet.errors import ConfigError
from vnet.topology import Topology
from vnet.topology.reader import from_tables, parse_tables, read_text

__all__ = ["BUILT_IN", "FILE", "open_tables", "open_topology"]

BUILT_IN = "built-in topology"
"""Name in errors of the topology without a file."""
STDIN = "standard input"
FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
"""Type of an argument that is a topology file."""


def open_topology(path: Path) -> tuple[str, Topology]:
    """Return the name of the file in errors, and its topology. Raises ConfigError, OSError."""
    file, tables = open_tables(path)
    return file, from_tables(tables, file)


def open_tables(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the file in errors, and its tables, which are not checked. Raises ConfigError, OSError."""
    if str(path) == "-":
        with os.fdopen(0, "rb", closefd=False) as stdin:
            return STDIN, parse_tables(read_text(stdin, STDIN), STDIN)
    file = str(path)
    try:
        with path.open("rb") as opened:
            return file, parse_tables(read_text(opened, file), file)
    except OSError as exc:
        raise ConfigError(file, "", None, exc.strerror or str(exc)) from None
