"""The command group; each command is in a module of its own, imported when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from vnet.cli.start import imports_are_done
from vnet.version import __version__

__all__ = ["main"]

COMMANDS: Mapping[str, str] = {
    "demo": "vnet.cli.demo",
    "up": "vnet.cli.up",
    "down": "vnet.cli.down",
    "show": "vnet.cli.show",
    "exec": "vnet.cli.enter",
    "link": "vnet.cli.link",
    "set": "vnet.cli.set",
    "bench": "vnet.cli.bench",
    "serve": "vnet.cli.serve",
    "schema": "vnet.cli.schema",
    "completion": "vnet.cli.completion",
}


class LazyCommands(dict[str, click.Command]):
    """The commands by name. A module is imported when its command is used: help and completion stay quick."""

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
    """The group of all commands, which says when the imports are over."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve like the base class. All imports are over then, and Ctrl-C is a KeyboardInterrupt again."""
        resolved = super().resolve_command(ctx, args)
        imports_are_done()
        return resolved


def _ignore_half_made_loops(
    report: Callable[[sys.UnraisableHookArgs], object], unraisable: sys.UnraisableHookArgs
) -> None:
    """Report an error in a destructor, but not that of an event loop that had no descriptors.

    pyroute2 makes an event loop for each netlink socket. If descriptors run out meanwhile, the loop's destructor fails
    over what was never made; the lack itself is raised, and reported.
    """
    if getattr(unraisable.object, "__qualname__", "") != "BaseEventLoop.__del__":
        report(unraisable)


def _load(_context: click.Context, _option: click.Parameter, files: tuple[Path, ...]) -> None:
    """Before any command is imported, whose options may list what there is."""
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
    help="Run this Python file first, which adds a device type or a transport; may be given several times.",
)
def main() -> None:
    """Virtio between two machines joined by a simulated PCI Express link."""
    if not isinstance(sys.unraisablehook, partial):
        sys.unraisablehook = partial(_ignore_half_made_loops, sys.unraisablehook)
