"""``vnet down``: end a running system, or remove what a killed one left."""

from __future__ import annotations

import os
import signal

import click
import trio

from vnet.cli.common import errors_in_one_line, name_option
from vnet.control import ask
from vnet.errors import ControlError
from vnet.state import clean_up, running

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
        trio.run(_end, name, state.pid)
        click.echo(f"{name} is down")


async def _end(name: str, pid: int) -> None:
    try:
        await ask(name, "quit")
    except ControlError:
        # It hangs, or does not listen yet. The lock says that it lives, and so that the number is still its own.
        if pid:
            os.kill(pid, signal.SIGTERM)
    with trio.move_on_after(PATIENCE):
        while running(name) is not None:  # noqa: ASYNC110  another process ends: there is nothing to await
            await trio.sleep(LOOK)
        return
    raise ControlError(f"{name} does not end; try: sudo kill -9 {pid}; vnet down --name {name}")
