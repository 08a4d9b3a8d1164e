"""``vnet down``: end a running system, or remove the remains of a killed one."""

from __future__ import annotations

import signal
import time

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.configfs.mounts import fuse_mounts, unmount
from vnet.errors import ControlError
from vnet.qmp.client import ask
from vnet.system.claim import clean_up
from vnet.system.state import State, running, signal_owner, state_path

__all__ = ["command"]

PATIENCE = 10.0
"""Seconds that a system may take to end."""
KEEPER_PATIENCE = 3.0
"""Seconds that the keeper of a system may take to clean up after it."""
POLL_INTERVAL = 0.02
"""Seconds between two checks whether it has ended."""


@click.command("down")
@name_option
@errors_in_one_line
def command(name: str) -> None:
    """End a running system, or clean up after a killed one.

    Mounts of its management tree are unmounted.
    """
    state = running(name)
    if state is None:
        remains = clean_up(name)
        if remains is None:
            click.echo(f"{name} is not running")
        else:
            netns = () if remains.rootless else remains.netns  # those of a rootless system ended with its process
            click.echo(f"{name} was killed; removed {', '.join(netns) or 'its files'}")
    else:
        _end(name)
        _wait_clean(name)
        click.echo(f"{name} is down")
    for path in list(fuse_mounts(name)):
        try:
            unmount(path)
        except OSError:
            if path in fuse_mounts(name):
                raise
            continue  # its process, which sees the end of the system, was faster
        click.echo(f"unmounted {path}")


def _end(name: str) -> None:
    """Request the end of the system and wait for it. Raises ControlError."""
    requested = False
    state = None
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        current = running(name)
        if current is None:
            return
        state = current
        requested = requested or _request_end(state)
        time.sleep(POLL_INTERVAL)
    assert state is not None
    if signal_owner(state, 0):
        raise ControlError(f"{name} does not end; try: sudo kill -9 {state.pid}; vnet down --name {name}")
    path = state_path(name)
    why = f"{name} does not end, and {path} does not name the process that holds its lock"
    raise ControlError(f"{why}; try: fuser {path}")


def _wait_clean(name: str) -> None:
    """Wait for the keeper of a sandboxed system, which removes what the system could not."""
    deadline = time.monotonic() + KEEPER_PATIENCE
    while state_path(name).exists() and running(name) is None and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)


def _request_end(state: State) -> bool:
    """Request the end by the control socket, else by SIGTERM. Returns whether the system got the request."""
    try:
        ask(state.name, "quit")
    except ControlError:
        return signal_owner(state, signal.SIGTERM)
    return True
