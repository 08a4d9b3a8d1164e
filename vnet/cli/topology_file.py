"""Topology files on the command line: a path, or - for standard input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from vnet.topology import Topology
from vnet.topology.reader import from_tables, load_tables, read_tables

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
            return STDIN, read_tables(stdin, STDIN)
    return str(path), load_tables(path)
