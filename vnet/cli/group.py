"""The command group. Each command is a module, imported when the command runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from vnet.cli.interrupt import raise_on_interrupt
from vnet.version import __version__

__all__ = ["main"]

COMMANDS: Mapping[str, str] = {
    "demo": "vnet.cli.demo",
    "up": "vnet.cli.up",
    "down": "vnet.cli.down",
    "show": "vnet.cli.show",
    "ps": "vnet.cli.ps",
    "exec": "vnet.cli.enter",
    "link": "vnet.cli.link",
    "set": "vnet.cli.set",
    "bench": "vnet.cli.bench",
    "serve": "vnet.cli.serve",
    "doctor": "vnet.cli.doctor",
    "validate": "vnet.cli.validate",
    "schema": "vnet.cli.schema",
    "completion": "vnet.cli.completion",
}
"""Module by command."""


class LazyCommands(dict[str, click.Command]):
    """Commands by name. A module is imported when its command is used, so that completion is fast."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COMMANDS, click.Command(None)))

    def __getitem__(self, name: str) -> click.Command:
        command = importlib.import_module(COMMANDS[name]).command
        assert isinstance(command, click.Command)
        return command

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in COMMANDS else default

    def items(self) -> Any:
        return [(name, self[name]) for name in COMMANDS]


class CommandGroup(click.Group):
    """The group of all commands, which switches the handler of Ctrl-C after the imports."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command as the base class does; from then on Ctrl-C is a KeyboardInterrupt."""
        resolved = super().resolve_command(ctx, args)
        raise_on_interrupt()
        return resolved


def _ignore_half_made_loops(
    report: Callable[[sys.UnraisableHookArgs], object], unraisable: sys.UnraisableHookArgs
) -> None:
    """Report an error in a destructor, except in that of a half-made asyncio event loop.

    pyroute2 makes an event loop for each netlink socket. If the process has no free file descriptor, the loop's
    destructor fails because its attributes are missing; the cause is raised and reported anyway.
    """
    if getattr(unraisable.object, "__qualname__", "") != "BaseEventLoop.__del__":
        report(unraisable)


def _load(_context: click.Context, _option: click.Parameter, files: tuple[Path, ...]) -> None:
    """Load extensions before a command is imported, because its options may list device types and transports."""
    if files:
        from vnet.cli.common import errors_in_one_line
        from vnet.topology.extensions import load_extension

        for file in files:
            errors_in_one_line(load_extension)(file)


@click.group(
    cls=CommandGroup,
    commands=LazyCommands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="vnet")
@click.option(
    "--load",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_load,
    expose_value=False,
    help="Python file that adds a device type or a transport. Repeatable.",
)
def main() -> None:
    """Run virtio between two machines joined by a simulated PCI Express link."""
    if not isinstance(sys.unraisablehook, partial):
        sys.unraisablehook = partial(_ignore_half_made_loops, sys.unraisablehook)
