"""The command group; each command is in a module of its own, imported when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click

from vnet import __version__
from vnet.cli.start import imports_are_done

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
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for: help and completion stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As the base class; all imports are over then, and Ctrl-C is a KeyboardInterrupt again."""
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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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
