"""``vnet serve --isolate``: a process for each device, under a supervisor."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import click
import trio

from vnet.cli.common import errors_in_one_line
from vnet.cli.group import LOADED
from vnet.cli.signals import run_until_ended
from vnet.qmp.server import ControlServer
from vnet.system.claim import claim
from vnet.system.export_topology import HOST
from vnet.system.keeper import keeper
from vnet.system.state import make_run_dir, running, socket_path
from vnet.system.supervisor import Supervisor
from vnet.system.world import World
from vnet.topology import Topology

__all__ = ["AND", "isolated"]

AND = "--and"
"""Stands between two devices on the command line."""
DEVICE_NAME = "--device-name"


def isolated(group: click.Group, system: str | None) -> click.Command:
    """Return the command that takes the arguments of several commands of ``group``, with `AND` between them."""

    @click.pass_context
    @errors_in_one_line
    def run(context: click.Context, words: Sequence[str]) -> None:
        commands = dict(_commands(context, group, words))
        name = system or _free_name()
        with keeper(name):
            run_until_ended(lambda serving: _run(name, Supervisor(commands), serving))

    words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
    settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    return click.Command("--isolate", callback=run, params=[words], context_settings=settings, add_help_option=False)


def _commands(context: click.Context, group: click.Group, words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each device and the command line of its process. Raises UsageError for one that is invalid."""
    loaded: Sequence[Path] = context.meta.get(LOADED, ())
    start = [sys.executable, "-P", "-m", "vnet", *(word for file in loaded for word in ("--load", str(file))), "serve"]
    numbers: Counter[str] = Counter()
    names: set[str] = set()
    for kind, *options in _split(words):
        command = group.get_command(context, kind)
        if command is None:
            raise click.UsageError(f"No such command {kind!r}.", context.parent)
        with command.make_context(kind, list(options), parent=context.parent) as parsed:
            given = parsed.params["device_name"]
        name = given or f"{kind}{numbers[kind]}"
        numbers[kind] += 1
        if name in names:
            raise click.UsageError(f"two devices are named {name}; give one another {DEVICE_NAME}", context.parent)
        names.add(name)
        yield name, [*start, kind, *options, *(() if given else (DEVICE_NAME, name))]


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of each device. Raises UsageError if there are none for one."""
    part: list[str] = []
    for word in (*words, AND):
        if word != AND:
            part.append(word)
            continue
        if not part:
            raise click.UsageError(f"{AND} must stand between two devices: vnet serve --isolate blk ... {AND} net ...")
        yield part
        part = []


def _free_name() -> str:
    """Return a name for a system that no running one has. Raises ControlError, OSError."""
    make_run_dir()
    names = (HOST if number == 1 else f"{HOST}-{number}" for number in count(1))
    return next(name for name in names if running(name) is None)


async def _run(name: str, supervisor: Supervisor, serving: trio.Event) -> int:
    """Supervise the processes, as a system without parts of its own, until all have ended or a command ends them."""
    topology = Topology({}, {}, {}, {})
    world = World(name, topology)
    world.processes = supervisor.processes
    control = ControlServer(world)
    try:
        with claim(name, topology):
            async with trio.open_nursery() as nursery:
                await nursery.start(control.serve, socket_path(name))
                nursery.start_soon(control.cancel_at_quit, nursery.cancel_scope)
                nursery.start_soon(_supervise, supervisor, name, serving, nursery.cancel_scope)
    finally:
        world.poller.close()
    return 0


async def _supervise(supervisor: Supervisor, name: str, serving: trio.Event, scope: trio.CancelScope) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, lambda text: click.echo(text, nl=False))
        many = len(supervisor.processes)
        what = "One device, in a process" if many == 1 else f"{many} devices, each in a process"
        click.echo(f"{what} of its own; Ctrl-C ends all. In another shell: vnet show --name {name}")
        serving.set()
    scope.cancel()
