"""``vnet mount``: the management tree of a running system as a file system."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from vnet.cli.cfs import system_argument
from vnet.cli.common import errors_in_one_line
from vnet.cli.extras import extra
from vnet.cli.signals import run_until_ended
from vnet.configfs.mounts import is_dead, unmount
from vnet.errors import SUDO, ControlError, PrivilegeError
from vnet.qmp.client import CHANGE_PATIENCE

__all__ = ["command"]

FUSE_DEVICE = Path("/dev/fuse")
LOOKS = frozenset({"list", "read", "stat"})
"""Commands that change nothing, and take turns in one conversation."""


@click.command("mount")
@system_argument
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@errors_in_one_line
def command(name: str, directory: Path) -> None:
    """Mount the management tree of system NAME at DIRECTORY.

    It is the tree of the kernel's configfs, with its attributes and errors. Only the user who mounts it can use it.
    Ctrl-C, umount and the end of the system end it.
    """
    with extra("fuse"):
        import vnet.configfs.fuse  # noqa: F401
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise PrivilegeError(f"no right to open {FUSE_DEVICE}", SUDO)
    if is_dead(directory):
        unmount(directory)
    if not directory.is_dir():
        raise ControlError(f"{directory}: must be a directory")
    run_until_ended(partial(_mount, name, directory.resolve()))


async def _mount(name: str, directory: Path, serving: trio.Event) -> int:
    """Serve the mount until it is unmounted or the system ends. Raises ControlError, OSError."""
    from vnet.configfs.fuse import mounted
    from vnet.configfs.values import TreeError
    from vnet.linux.background import open_background
    from vnet.qmp.async_client import Control, Conversation, Refusal
    from vnet.qmp.cfs import error_number

    control = Control(name)

    async def call(operation: str, arguments: Mapping[str, object]) -> Any:
        try:
            if operation in LOOKS:
                return await control.look(f"cfs-{operation}", arguments)
            return await control.act(f"cfs-{operation}", arguments, CHANGE_PATIENCE)
        except Refusal as exc:
            raise TreeError(error_number(str(exc))) from None
        except ControlError:
            raise TreeError(errno.EIO) from None

    async def watch(conversation: Conversation, scope: trio.CancelScope) -> None:
        """Return once the system has ended."""
        try:
            while True:
                await conversation.receive()
        except ControlError:
            click.echo(f"{name} has ended: {directory} is unmounted")
            scope.cancel()

    async with (
        control.converse() as conversation,
        mounted(name, directory, call) as serve,
        open_background() as nursery,
    ):
        with trio.CancelScope() as scope:
            nursery.start_soon(watch, conversation, scope)
            click.echo(f"{name} is mounted at {directory}. Ctrl-C, or umount {directory}, ends it.")
            serving.set()
            await serve()
    return 0
