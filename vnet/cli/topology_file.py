"""Topology files on the command line: a path, or - for standard input."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vnet.topology import Topology, load, read

__all__ = ["BUILT_IN", "FILE", "open_topology"]

BUILT_IN = "built-in topology"
"""Name in errors of the topology without a file."""
FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
"""Type of an argument that is a topology file."""


def open_topology(path: Path) -> tuple[str, Topology]:
    """Return the name of the file in errors, and its topology. Raises ConfigError, OSError."""
    if str(path) == "-":
        with os.fdopen(0, "rb", closefd=False) as stdin:
            return (file := "standard input"), read(stdin, file)
    return str(path), load(path)
