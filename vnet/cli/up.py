"""``vnet up``: build a topology and keep it running."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import click
import trio
from click.core import ParameterSource

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.logs import log_options
from vnet.cli.rootless import enter_rootless, rootless_option
from vnet.cli.sandbox import Confining, confining, sandbox_option
from vnet.cli.signals import run_until_ended
from vnet.cli.stream_place import GivenPlace, StreamPlace
from vnet.cli.topology_file import BUILT_IN, FILE, open_topology
from vnet.cli.view import view_command
from vnet.errors import settings_of
from vnet.linux.netns import NETNS_DIR
from vnet.linux.privileges import rootless
from vnet.names import system_option
from vnet.process_ends import StreamProcess
from vnet.qmp.server import ControlServer
from vnet.system.claim import claim
from vnet.system.sandbox import Sandbox
from vnet.system.state import socket_path
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, Topology, parse, part_of, places_of

__all__ = ["command"]

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL for the command of --exec."""


@click.command("up", params=[sandbox_option])
@click.argument("topology", required=False, type=FILE)
@click.option(
    "--only", metavar="HOST", help="Run this host alone; its links lead to other processes, which run the other hosts."
)
@click.option(
    "--connect",
    "connects",
    metavar="[LINK=]HOST:PORT",
    multiple=True,
    type=StreamPlace(listens=False),
    help="Where the other process of a link with the key stream listens: host and port, or a unix socket's path.",
)
@click.option(
    "--listen",
    "listens",
    metavar="[LINK=]HOST:PORT",
    multiple=True,
    type=StreamPlace(listens=True),
    help="Where to wait for that process instead. Connections that leave the machine are encrypted.",
)
@name_option
@click.option("--exec", "run", metavar="CMD", help="Run CMD in a shell on the driver's host, then end with its status.")
@rootless_option
@log_options
@errors_in_one_line
@click.pass_context
def command(
    context: click.Context,
    topology: Path | None,
    only: str | None,
    connects: tuple[GivenPlace, ...],
    listens: tuple[GivenPlace, ...],
    name: str,
    run: str | None,
    in_namespace: bool,
    sandbox: Sandbox,
) -> None:
    """Build the system in a TOPOLOGY file and keep it running.

    Without TOPOLOGY, the system is two hosts with a network device. TOPOLOGY - is standard input. Ctrl-C, SIGTERM and
    `vnet down` end the system and remove all of it; the exit status is then 0. It is 128 + the signal's number if a
    signal arrives before all devices are up. With --exec, the status is CMD's, or 128 + the number of the signal that
    ended vnet before CMD.

    With --rootless, namespaces and interfaces are in a user namespace: an ordinary user needs no further right, and
    `vnet exec` enters them. `vnet show`, `vnet down` and the like work as with any other system.

    With --only, the name of the system is HOST unless --name is given. The links of HOST need the key vfio_user, for
    processes on this machine, or stream, for any two machines: then one side listens and the other one connects, whose
    place is --listen or --connect. LINK= names the link if there are several.
    """
    file, parsed = open_topology(topology) if topology else (BUILT_IN, parse(DEFAULT, BUILT_IN))
    if only is not None:
        parsed = part_of(parsed, only, file, places_of(parsed, only, [*connects, *listens], file))
        if context.get_parameter_source("name") is ParameterSource.DEFAULT:
            name = only
    elif connects or listens:
        places_of(parsed, None, [*connects, *listens], file)
    _check_streams(parsed, sandbox)
    if in_namespace:
        enter_rootless()
    with confining(sandbox, name, namespaces=any(parsed.namespaces(name))) as confined:
        status = run_until_ended(partial(_up, parsed, file, name, run, confined))
    context.exit(status)


def _check_streams(topology: Topology, sandbox: Sandbox) -> None:
    """Raise UsageError if a sandbox forbids the stream of a link."""
    for link in topology.links.values():
        for end in (link.root, link.endpoint):
            if isinstance(end, StreamProcess) and end.address.port is not None and sandbox is not Sandbox.OFF:
                raise click.UsageError(
                    f"--sandbox {sandbox.value} forbids TCP to {end.address}: use a unix socket, or off"
                )


async def _up(
    topology: Topology, file: str, name: str, run: str | None, confined: Confining, serving: trio.Event
) -> int:
    """Run ``topology``, read from ``file``; return the exit status."""
    with settings_of(file), claim(name, topology) as claimed:
        async with open_world(topology, name, record=claimed.record) as world:
            return await _serve(world, run, confined, serving)


async def _serve(world: World, run: str | None, confined: Confining, serving: trio.Event) -> int:
    """Keep the control socket open until a client sends quit or CMD ends; return the exit status.

    Without a CMD, sets ``serving`` once all devices are up.
    """
    status = 0
    control = ControlServer(world)
    async with trio.open_nursery() as nursery:
        await nursery.start(control.serve, socket_path(world.name))
        await world.wait_up()
        if run is None:
            await confined.enter(world, world.name)
            click.echo("\n".join(_hints(world)))
            serving.set()
            await control.quit.wait()
        else:
            nursery.start_soon(control.cancel_at_quit, nursery.cancel_scope)
            status = 128 + signal.SIGTERM
            status = await _run(world, run, confined)
        nursery.cancel_scope.cancel()
    return status


async def _run(world: World, run: str, confined: Confining) -> int:
    """Run a shell command in the namespace of the first driver's host that has one; return its exit status.

    The command keeps the rights that this process gives up.
    """
    hosts = (world.topology.ends(spec)[0] for spec in world.topology.devices.values())
    netns = next(filter(None, (world.topology.host_netns(world.name, host) for host in hosts)), None)
    # Without a terminal, CMD gets its own process group, so that all of it can be killed. With one, CMD stays in ours,
    # because the terminal sends Ctrl-C to one group only.
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
    start = partial(trio.run_process, argv, stdin=None, check=False, process_group=group, deliver_cancel=end)
    async with trio.open_nursery() as nursery:
        process = await nursery.start(start)
        await confined.enter(world, world.name, runs_command=True)
    status: int = process.returncode
    return status if status >= 0 else 128 - status


def _hints(world: World) -> Iterator[str]:
    """Yield the commands to try in another shell."""
    topology, name = world.topology, world.name
    option = system_option(name)
    yield f"{name} is up. In another shell:"
    for device, spec in topology.devices.items():
        hints = spec.hints(name, device, topology.ends(spec))
        yield from (f"  {hint}" for hint in (_entered(world, hints) if rootless.is_entered() else hints))
    yield f"  vnet show{option}"
    if topology.links:
        yield f"  vnet link{option} down; vnet link{option} up"
    yield f"Ctrl-C, or vnet down{option}, ends it."


def _entered(world: World, hints: Iterable[str]) -> Iterator[str]:
    """Yield hints with `vnet exec` in place of `ip netns exec`, which does not find namespaces of a rootless system."""
    hosts = {world.topology.host_netns(world.name, host): host for host in world.topology.hosts}
    for hint in hints:
        words = hint.split(maxsplit=4)
        if words[:3] != ["ip", "netns", "exec"]:
            yield hint
        elif words[3] in hosts:
            yield f"vnet exec{system_option(world.name)} {hosts[words[3]]} -- {words[4]}"
