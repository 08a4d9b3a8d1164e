"""``vnet ps``: list the systems of this user; for root, those of all users."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import attrs
import click

from vnet.cli.common import errors_in_one_line
from vnet.cli.table import render
from vnet.errors import ControlError
from vnet.qmp.client import ask
from vnet.system.state import State, read_state, run_dirs, running, system_names
from vnet.views.parse import from_plain
from vnet.views.plain import to_plain
from vnet.views.system import StatusView, VerdictView

__all__ = ["SystemRow", "command"]

PATIENCE = 1.0
"""Seconds that a system may take to answer."""
HEADERS = ("name", "user", "pid", "uptime", "hosts", "devices", "up", "state")


@attrs.frozen
class SystemRow:
    """A system."""

    name: str
    user: str
    """Name of its user."""
    pid: int
    """Process id; 0 if the state file is damaged."""
    state: Literal["up", "down", "silent", "killed"]
    """``down``: a device is not up; ``silent``: no answer; ``killed``: its process ended without removing its file."""
    uptime: float | None
    """Seconds; None if it was killed."""
    hosts: int
    devices: int | None
    """Number of devices; None if the system does not answer."""
    devices_up: int | None
    """Number of devices that are up."""
    verdicts: Mapping[str, VerdictView] = attrs.field(factory=dict)
    """The fault of each device that is unwell, by its name."""


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@errors_in_one_line
def command(as_json: bool) -> None:
    """List the systems of this user.

    Root's list has those of all users. A system whose process was killed is listed until `vnet down` has cleaned up
    after it.
    """
    own, *others = run_dirs()
    rows = list(_rows(own))
    for directory in others:
        with contextlib.suppress(ControlError, OSError):  # whatever another user has put there
            rows += _rows(directory)
    if as_json:
        click.echo(json.dumps(to_plain(rows), indent=2))
    elif rows:
        user = _user(os.geteuid())
        click.echo(render(HEADERS, [_cells(row, user) for row in rows]))
        for row in rows:
            for device, verdict in row.verdicts.items():
                click.echo(f"{row.name}: {device} is {verdict.words}")


def _rows(directory: Path) -> Iterator[SystemRow]:
    """Yield the row of each system in a directory. Raises ControlError, OSError."""
    for name in system_names(directory):
        row = _row(name, directory)
        if row is not None:
            yield row


def _row(name: str, directory: Path) -> SystemRow | None:
    """Return the row of a system; None if it ended meanwhile. Raises ControlError, OSError."""
    user, state = _user(directory.stat().st_uid), running(name, directory)
    if state is None:
        state = read_state(name, directory)
        return None if state is None else SystemRow(name, user, state.pid, "killed", None, len(state.hosts), None, None)
    status = _status(state, directory)
    if status is None:
        return SystemRow(name, user, state.pid, "silent", state.uptime, len(state.hosts), None, None)
    devices = status.devices.values()
    up: Literal["up", "down"] = "up" if all(devices) else "down"
    return SystemRow(
        name, user, state.pid, up, state.uptime, len(status.hosts), len(devices), sum(devices), status.verdicts
    )


def _user(uid: int) -> str:
    """Return a user's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _status(state: State, directory: Path) -> StatusView | None:
    try:
        return from_plain(StatusView, ask(state.name, "query-vnet-status", timeout=PATIENCE, directory=directory))
    except (ControlError, OSError, ValueError):
        return None


def _cells(row: SystemRow, user: str) -> tuple[object, ...]:
    """Return the cells of a row. Only ``user`` gets the command that cleans up after its killed system."""
    hint = f"; try: vnet down --name {row.name}" if row.state == "killed" and row.user == user else ""
    state = row.state + hint
    counts = ("-" if count is None else str(count) for count in (row.devices, row.devices_up))
    return row.name, row.user, row.pid, "-" if row.uptime is None else _duration(row.uptime), row.hosts, *counts, state


def _duration(seconds: float) -> str:
    """Return the two largest units, such as 2 h 5 min."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    shown = [f"{count} {unit}" for count, unit in units]
    first = next((at for at, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(shown[first : first + 2])
