"""``vnet up``: a topology that runs until somebody ends it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import trio

from vnet.cli.common import errors_in_one_line, name_option, report
from vnet.cli.signals import run_until_ended
from vnet.cli.view import view_command
from vnet.errors import settings_of
from vnet.linux.netns import NETNS_DIR
from vnet.system.control import ControlServer
from vnet.system.state import claim, socket_path
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, Topology, load, parse, read

__all__ = ["command"]

GRACE = 3.0
"""Seconds that a command has to end once it is asked to."""


@click.command("up")
@click.argument("topology", required=False, type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@name_option
@click.option("--exec", "run", metavar="CMD", help="Run CMD in a shell on the root complex's host, then end with it.")
@errors_in_one_line
def command(topology: Path | None, name: str, run: str | None) -> None:
    """Build what TOPOLOGY (a TOML file) describes, by default two hosts and a network device, and keep it running.

    TOPOLOGY - is standard input. Ctrl-C, SIGTERM and `vnet down` end it, and nothing stays behind; the exit status is
    then 0. It is 128 and the number of the signal if that comes before everything is up. With --exec it is CMD's, or
    128 and the number of the signal that ended vnet before CMD was done.
    """
    file, found = _topology(topology)
    click.get_current_context().exit(run_until_ended(partial(_up, found, file, name, run)))


def _topology(path: Path | None) -> tuple[str, Topology]:
    """What errors call the topology, and the topology. Raises ConfigError."""
    if path is None:
        return (file := "built-in topology"), parse(DEFAULT, file)
    if str(path) == "-":
        with os.fdopen(0, "rb", closefd=False) as stdin:
            return (file := "standard input"), read(stdin, file)
    return str(path), load(path)


async def _up(topology: Topology, file: str, name: str, run: str | None, serving: trio.Event) -> int:
    """Run ``topology``, which came from ``file``. Returns the exit status."""
    with settings_of(file), claim(name, topology):
        async with open_world(topology, name, report=report) as world:
            return await _serve(world, run, serving)


async def _serve(world: World, run: str | None, serving: trio.Event) -> int:
    """Keep the control socket open until a client asks to quit, or CMD is done; return the exit status.

    ``serving`` is set once everything is up, without a CMD.
    """
    status = 0
    control = ControlServer(world)
    async with trio.open_nursery() as nursery:
        await nursery.start(control.serve, socket_path(world.name))
        await world.wait_up()
        if run is None:
            click.echo("\n".join(_hints(world)))
            serving.set()
            await control.quit.wait()
        else:
            nursery.start_soon(_cancel_at, control.quit, nursery.cancel_scope)
            status = 128 + signal.SIGTERM
            status = await _run(world, run)
        nursery.cancel_scope.cancel()
    return status


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _run(world: World, run: str) -> int:
    """The exit status of ``run``, as a shell gives it, in the namespace of a driver's host where one has any."""
    hosts = (world.topology.ends(spec)[0] for spec in world.topology.devices.values())
    netns = next(filter(None, (world.topology.host_netns(world.name, host) for host in hosts)), None)
    # Where nobody types, a process group of its own, so that all of it can be ended. A terminal's keys go to
    # one group only, and there Ctrl-C reaches everybody by itself.
    group = None if sys.stdin is not None and sys.stdin.isatty() else 0

    async def end(process: trio.Process) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(process.pid if group is None else -process.pid, number)
            except ProcessLookupError:
                return
            await trio.sleep(GRACE)

    shell = ["sh", "-c", run]
    argv = shell if netns is None else view_command(NETNS_DIR / netns, shell)
    done = await trio.run_process(argv, stdin=None, check=False, process_group=group, deliver_cancel=end)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _hints(world: World) -> Iterator[str]:
    """What to type elsewhere."""
    topology, name = world.topology, world.name
    option = "" if name == "vnet" else f" --name {name}"
    yield f"{name} is up. In another shell:"
    for device, spec in topology.devices.items():
        yield from (f"  {hint}" for hint in spec.hints(name, device, topology.ends(spec)))
    yield f"  vnet show{option}"
    if topology.links:
        yield f"  vnet link{option} down; vnet link{option} up"
    yield f"Ctrl-C, or vnet down{option}, ends it."
