"""``vnet ps``: list the systems of this user."""

from __future__ import annotations

import json
from typing import Literal

import attrs
import click

from vnet.cli.common import errors_in_one_line
from vnet.cli.table import render
from vnet.errors import ControlError
from vnet.system.client import ask
from vnet.system.state import State, read_state, running, system_names
from vnet.views.parse import from_plain
from vnet.views.plain import to_plain
from vnet.views.system import StatusView

__all__ = ["SystemRow", "command"]

PATIENCE = 1.0
"""Seconds that a system may take to answer."""
HEADERS = ("name", "pid", "uptime", "hosts", "devices", "up", "state")


@attrs.frozen
class SystemRow:
    """A system of this user."""

    name: str
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


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@errors_in_one_line
def command(as_json: bool) -> None:
    """List the systems of this user.

    A system whose process was killed is listed until `vnet down` has cleaned up after it.
    """
    rows = [row for name in system_names() if (row := _row(name)) is not None]
    if as_json:
        click.echo(json.dumps(to_plain(rows), indent=2))
    elif rows:
        click.echo(render(HEADERS, [_cells(row) for row in rows]))


def _row(name: str) -> SystemRow | None:
    """Return the row of a system; None if it ended meanwhile. Raises ControlError, OSError."""
    state = running(name)
    if state is None:
        remains = read_state(name)
        return None if remains is None else SystemRow(name, remains.pid, "killed", None, len(remains.hosts), None, None)
    status = _status(state)
    if status is None:
        return SystemRow(name, state.pid, "silent", state.uptime, len(state.hosts), None, None)
    devices = status.devices.values()
    up: Literal["up", "down"] = "up" if all(devices) else "down"
    return SystemRow(name, state.pid, up, state.uptime, len(status.hosts), len(devices), sum(devices))


def _status(state: State) -> StatusView | None:
    try:
        return from_plain(StatusView, ask(state.name, "query-status", timeout=PATIENCE))
    except (ControlError, OSError, ValueError):
        return None


def _cells(row: SystemRow) -> tuple[object, ...]:
    state = f"killed; try: vnet down --name {row.name}" if row.state == "killed" else row.state
    counts = ("-" if count is None else str(count) for count in (row.devices, row.devices_up))
    return row.name, row.pid, "-" if row.uptime is None else _duration(row.uptime), row.hosts, *counts, state


def _duration(seconds: float) -> str:
    """Return the two largest units, such as 2 h 5 min."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    shown = [f"{count} {unit}" for count, unit in units]
    first = next((at for at, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(shown[first : first + 2])
