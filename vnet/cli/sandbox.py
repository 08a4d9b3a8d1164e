"""The option --sandbox, and its part in commands that keep a system up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import click

from vnet.linux.privileges import rootless
from vnet.system.keeper import Keeper, keeper
from vnet.system.sandbox import Sandbox, check_sandbox, enter_sandbox
from vnet.system.world import World

__all__ = ["Confining", "confining", "sandbox_option"]

HELP = (
    "Rights to give up once the system is up. on: capabilities, other files, other system calls, as far as "
    "this machine can; changes that need a right fail. strict: all of it, and the system does not change."
)
STRICT = ": its sandbox is strict; start it with --sandbox=on, or off"

sandbox_option = click.Option(
    ["--sandbox"],
    type=click.Choice([mode.value for mode in Sandbox]),
    callback=lambda _context, _option, value: Sandbox(value),
    default=Sandbox.OFF.value,
    show_default=True,
    help=HELP,
)
"""Option with the mode of the sandbox; its value is a `Sandbox`."""


@attrs.frozen
class Confining:
    """The sandbox that a command enters once its system is up."""

    sandbox: Sandbox
    _keeper: Keeper | None

    async def enter(self, world: World, name: str | None, *, runs_command: bool = False) -> None:
        """Enter it; ``name`` is that of the system, None if it has no files. Raises PrivilegeError, OSError."""
        if self.sandbox is Sandbox.OFF:
            return
        if self._keeper is not None:
            self._keeper.keep()
        await enter_sandbox(self.sandbox, world.topology, name, runs_command=runs_command)
        if self.sandbox is Sandbox.STRICT:
            world.begin_changes(None, STRICT)


@contextmanager
def confining(sandbox: Sandbox, name: str, *, namespaces: bool) -> Iterator[Confining]:
    """Prepare a sandbox. With ``namespaces`` the system may make some, which a keeper removes after its end.

    The process must have one thread. Raises PrivilegeError if the machine lacks what the strict sandbox needs.
    """
    check_sandbox(sandbox)
    if sandbox is Sandbox.OFF or not namespaces or rootless.is_entered():
        yield Confining(sandbox, None)
    else:
        with keeper(name) as kept:
            yield Confining(sandbox, kept)
