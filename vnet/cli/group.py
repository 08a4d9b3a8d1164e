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

__all__ = ["LOADED", "main"]

LOADED = "vnet.loaded"
"""Entry of the context's ``meta`` with the files of ``--load``."""
COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("vnet.cli.demo", "Build a system with one device and test the device."),
    "up": ("vnet.cli.up", "Build the system in a TOPOLOGY file and keep it running."),
    "down": ("vnet.cli.down", "End a running system, or clean up after a killed one."),
    "show": ("vnet.cli.show", "Print hosts, links, devices and traffic."),
    "graph": ("vnet.cli.graph", "Draw a topology FILE, or a running system with its states."),
    "top": ("vnet.cli.top", "Show rates of devices and queues while a system runs."),
    "metrics": ("vnet.cli.metrics", "Print the figures of a running system for Prometheus."),
    "web": ("vnet.cli.web", "Serve a web page of a running system to browsers of this machine."),
    "lspci": ("vnet.cli.lspci", "Print the PCI functions of a system, as lspci does."),
    "capture": ("vnet.cli.capture", "Record what happens in a running system."),
    "ps": ("vnet.cli.ps", "List the systems of this user."),
    "exec": ("vnet.cli.enter", "Run CMD in the network namespace of HOST."),
    "link": ("vnet.cli.link", "Take LINK, or all links, down or up; stop or start its endpoint."),
    "add": ("vnet.cli.add", "Add the parts in FILE to a running system."),
    "remove": ("vnet.cli.remove", "Remove PART: a device, LUN, NTB, link or host."),
    "apply": ("vnet.cli.apply", "Make a running system what the topology FILE says."),
    "bind": ("vnet.cli.bind", "Bind the driver or the device type of DEVICE again."),
    "unbind": ("vnet.cli.unbind", "Unbind the driver or the device type of DEVICE."),
    "fault": ("vnet.cli.fault", "Set, list and clear faults of LINK while the system runs."),
    "set": ("vnet.cli.set", "Change SETTING of a device or link while the system runs."),
    "mount": (
        "vnet.cli.mount",
        "Mount the management tree of system NAME at DIRECTORY.",
    ),
    "cfs": (
        "vnet.cli.cfs",
        "Look at and change the management tree of a running system.",
    ),
    "bench": ("vnet.cli.bench", "Measure this stack and alternatives to it; show medians."),
    "check": ("vnet.cli.check", "Check another program's device or driver."),
    "serve": ("vnet.cli.serve", "Serve a device or a PCI function, for example to QEMU."),
    "sim": ("vnet.cli.sim", "Simulate a system, with traffic and faults from one seed."),
    "campaign": ("vnet.cli.campaign", "Simulate the systems of many seeds."),
    "learn": ("vnet.cli.learn", "Show how virtqueues work, step by step, on real rings."),
    "shell": ("vnet.cli.shell", "Open a Python prompt on a running system."),
    "doctor": ("vnet.cli.doctor", "Check the machine: Python, kernel, rights and programs."),
    "validate": ("vnet.cli.validate", "Check topology files without building anything."),
    "schema": ("vnet.cli.schema", "Print the JSON Schema of topology files."),
    "completion": ("vnet.cli.completion", "Print the completion script for a SHELL."),
}
"""Module, and first sentence of the help, by command."""


class LazyCommands(dict[str, click.Command]):
    """Commands by name. A module is imported when its command is used, so that completion is fast."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COMMANDS, click.Command(None)))

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        return command

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in COMMANDS else default

    def items(self) -> Any:
        return [(name, self[name]) for name in COMMANDS]


class CommandGroup(click.Group):
    """The group of all commands: its help imports none of them; Ctrl-C is handled differently once one is imported."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

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


def _load(context: click.Context, _option: click.Parameter, files: tuple[Path, ...]) -> None:
    """Load extensions before a command is imported, because its options may list device types and transports."""
    if files:
        from vnet.cli.common import EXTENSIONS, errors_in_one_line
        from vnet.topology.extensions import load_extension

        context.meta[LOADED] = files

        for file in files:
            errors_in_one_line(load_extension)(file)
        context.meta[EXTENSIONS] = tuple(str(file.resolve()) for file in files)


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
