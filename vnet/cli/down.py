"""``vnet down``: end a running system, or remove what a killed one left."""

from __future__ import annotations

import signal

import click
import trio

from vnet.cli.common import errors_in_one_line, name_option
from vnet.errors import ControlError
from vnet.system.control import ask
from vnet.system.state import State, clean_up, running, signal_owner, state_path

__all__ = ["command"]

PATIENCE = 10.0
"""Seconds that a system has to end."""
LOOK = 0.02


@click.command("down")
@name_option
@errors_in_one_line
def command(name: str) -> None:
    """End the running system, and wait until it is gone; after a kill -9, remove what it left."""
    state = running(name)
    if state is None:
        left = clean_up(name)
        if left is None:
            click.echo(f"{name} is not running")
        else:
            click.echo(f"{name} was killed; removed {', '.join(left.netns) or 'its files'}")
    else:
        trio.run(_end, name)
        click.echo(f"{name} is down")


async def _end(name: str) -> None:
    """Ask the system to end until it does. Raises ControlError."""
    asked = False
    state = None
    with trio.move_on_after(PATIENCE):
        while (found := running(name)) is not None:
            state = found
            asked = asked or await _ask_to_end(state)
            await trio.sleep(LOOK)
        return
    assert state is not None
    if signal_owner(state, 0):
        raise ControlError(f"{name} does not end; try: sudo kill -9 {state.pid}; vnet down --name {name}")
    path = state_path(name)
    why = f"{name} does not end, and {path} does not name the process that has locked it"
    raise ControlError(f"{why}; try: fuser {path}")


async def _ask_to_end(state: State) -> bool:
    """Whether the system was told: by its control socket, or by a signal if it hangs or does not listen yet."""
    try:
        await ask(state.name, "quit")
    except ControlError:
        return signal_owner(state, signal.SIGTERM)
    return True
