"""Parts that the commands which change a running system share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vnet.cli.topology_file import open_tables
from vnet.qmp.change_records import ChangeStep
from vnet.qmp.client import CHANGE_PATIENCE, ask
from vnet.views.parse import from_answer

__all__ = ["change", "read_tables"]

DONE = {"add": "added", "remove": "removed"}


def change(name: str, command: str, arguments: dict[str, Any], *, preview: bool = False) -> int:
    """Change the system ``name``, and print a line per step. Returns the number of steps. Raises ControlError, OSError.

    With ``preview``, the lines say what a change would do.
    """
    steps = from_answer(name, tuple[ChangeStep, ...], ask(name, command, arguments, timeout=CHANGE_PATIENCE))
    for step in steps:
        verb = step.action if preview else DONE.get(step.action, step.action)
        click.echo(f"{verb} {step.kind} {step.name}{f' ({step.why})' if step.why else ''}")
    return len(steps)


def read_tables(path: Path) -> dict[str, Any]:
    """Return the arguments that describe a topology file. Raises ConfigError, OSError."""
    file, tables = open_tables(path)
    return {"topology": tables, "file": file}
