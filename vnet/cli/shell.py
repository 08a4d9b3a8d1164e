"""``vnet shell``: a Python prompt on a running system, in its own process."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import termios
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import click
import trio

from rings.queue import Virtqueue
from rings.view import RingView
from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.console import Console, read_stdin
from vnet.cli.signals import run_until_signal
from vnet.cli.topology_file import BUILT_IN, FILE, open_topology
from vnet.demo import default_topology
from vnet.errors import settings_of
from vnet.qmp.server import ControlServer
from vnet.system.changes import no_record
from vnet.system.claim import claim
from vnet.system.device import Device
from vnet.system.snapshot import queue_sides
from vnet.system.state import socket_path
from vnet.system.world import World, open_world
from vnet.topology import Topology

__all__ = ["command"]

BANNER = """\
{name} is up: hosts {hosts}; links {links}; devices {devices}.
Names: world, hosts, links, devices, ports, rings, trio, and layers of scapy such as Ether, IP, UDP.
await works, as in: await ports["net0.device"].receive(). Ctrl-D ends the prompt and takes everything down."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end the prompt. SIGINT is none of them: Ctrl-C ends a statement."""
LAYERS: Mapping[str, str] = {
    **dict.fromkeys(("ARP", "Dot1Q", "Ether"), "scapy.layers.l2"),
    **dict.fromkeys(("ICMP", "IP", "TCP", "UDP"), "scapy.layers.inet"),
    **dict.fromkeys(
        ("ICMPv6EchoReply", "ICMPv6EchoRequest", "ICMPv6ND_NA", "ICMPv6ND_NS", "IPv6"), "scapy.layers.inet6"
    ),
    **dict.fromkeys(("Padding", "Raw"), "scapy.packet"),
    **dict.fromkeys(("hexdump", "rdpcap", "wrpcap"), "scapy.utils"),
}
"""Modules of scapy by the names that they have."""


class Names(dict[str, object]):
    """Global names of the prompt. Those of scapy are imported at their first use, because that takes a second."""

    def __missing__(self, name: str) -> object:
        if name not in LAYERS:
            raise KeyError(name)
        self[name] = getattr(importlib.import_module(LAYERS[name]), name)
        return self[name]


class Rings(Mapping[str, RingView]):
    """Views of all rings by ``DEVICE.QUEUE``; a view is what is in the driver's memory when it is asked for."""

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self._devices = devices

    def __getitem__(self, name: str) -> RingView:
        """Raises KeyError, with the rings that there are."""
        rings = self._rings()
        if name not in rings:
            raise KeyError(f"{name}: must be one of {', '.join(rings) or 'none'}")
        return rings[name].view()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rings())

    def __len__(self) -> int:
        return len(self._rings())

    def __repr__(self) -> str:
        return f"<rings {', '.join(self)}>"

    def _rings(self) -> dict[str, Virtqueue]:
        return {
            f"{device.name}.{name}": mine.ring
            for device in self._devices.values()
            for name, (mine, _) in queue_sides(device).items()
            if mine is not None and mine.reachable()
        }


def _ports(world: World) -> dict[str, object]:
    """Return the ports by ``DEVICE.END``, ``driver`` or ``device``; the end itself if it has no port."""
    return {
        f"{device}.{side}": getattr(end.settings, "port", end)
        for device in world.topology.devices
        for side, end in zip(("driver", "device"), world.ends(device), strict=True)
    }


@click.command("shell")
@click.argument("topology", required=False, type=FILE)
@name_option
@errors_in_one_line
def command(topology: Path | None, name: str) -> None:
    """Open a Python prompt on a running system.

    The system is in the process of the prompt: statements use its objects, and may await. Without TOPOLOGY, it is two
    hosts with a network device on ports in memory, which needs no right. Statements come from standard input if it is
    no terminal. Ctrl-D, the end of the input, ends the system.
    """
    file, parsed = open_topology(topology) if topology else (BUILT_IN, default_topology("memory"))
    with _terminal():
        status = run_until_signal(partial(_shell, parsed, file, name, topology is not None), ENDING)
    click.get_current_context().exit(status)


async def _shell(topology: Topology, file: str, name: str, public: bool) -> int:
    """Return the exit status of the prompt; 0 if `vnet down` ended it."""
    async with _open(topology, file, name, public) as world:
        click.echo(_banner(world), err=True)
        return await Console(_names(world), read_stdin).run()
    return 0


@asynccontextmanager
async def _open(topology: Topology, file: str, name: str, public: bool) -> AsyncIterator[World]:
    """Build the system; a ``public`` one is known to `vnet ps` and answers `vnet show`."""
    async with AsyncExitStack() as stack:
        stack.enter_context(settings_of(file))
        record = stack.enter_context(claim(name, topology)).record if public else no_record
        world = await stack.enter_async_context(open_world(topology, name, record=record))
        nursery = await stack.enter_async_context(trio.open_nursery())
        if public:
            control = ControlServer(world)
            await nursery.start(control.serve, socket_path(name))
            nursery.start_soon(control.cancel_at_quit, nursery.cancel_scope)
        await world.wait_up()
        yield world
        nursery.cancel_scope.cancel()


def _names(world: World) -> Names:
    names = Names(
        __name__="__console__",
        world=world,
        hosts=world.hosts,
        links=world.links,
        devices=world.devices,
        ports=_ports(world),
        rings=Rings(world.devices),
        trio=trio,
    )
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline
            import rlcompleter

            readline.set_completer(rlcompleter.Completer(names).complete)
            readline.parse_and_bind("tab: complete")
    return names


def _banner(world: World) -> str:
    parts: dict[str, Mapping[str, object]] = {"hosts": world.hosts, "links": world.links, "devices": world.devices}
    return BANNER.format(name=world.name, **{kind: ", ".join(named) or "none" for kind, named in parts.items()})


@contextmanager
def _terminal() -> Iterator[None]:
    """Restore the terminal at the end: a signal may end a prompt whose thread still reads a line."""
    if not sys.stdin.isatty():
        yield
        return
    modes = termios.tcgetattr(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, modes)
