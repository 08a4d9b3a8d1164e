"""``vnet exec``: run a program in the namespace of a host."""

from __future__ import annotations

import click

from vnet.cli.common import errors_in_one_line, name_option
from vnet.cli.live_names import complete_hosts
from vnet.cli.rootless import join_system, require_rootless_option
from vnet.errors import ControlError
from vnet.linux.netns import NETNS_DIR, enter
from vnet.linux.netns_view import execute, mount_view
from vnet.names import named
from vnet.system.state import running

__all__ = ["command"]


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@require_rootless_option
@click.argument("host", shell_complete=complete_hosts)
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
@errors_in_one_line
def command(name: str, rootless: bool, host: str, cmd: tuple[str, ...]) -> None:
    """Run CMD in the network namespace of HOST.

    The host may be of a system of `vnet up --rootless`: CMD is then root in the system's user namespace.

    CMD replaces vnet, so the exit status is CMD's. As with `ip netns exec`, CMD sees the namespace's own /sys, and the
    files in /etc/netns/NAMESPACE instead of those with the same names in /etc.

    \b
    vnet exec rc -- curl http://198.18.0.2/
    """
    cmd = cmd[cmd[0] == "--" :]
    if not cmd:
        raise click.UsageError("Missing argument 'CMD...'.")
    state = running(name)
    if state is None:
        raise ControlError(f"{name} is not running; try: vnet up --name {name}")
    netns = named("host", state.hosts, host, ControlError, f"{name}: ")
    if netns is None:
        raise ControlError(f"{name}: host {host!r}: must be a host with a namespace; this one only has in-memory ports")
    join_system(state, required=rootless)
    enter(NETNS_DIR / netns)
    mount_view(netns)
    execute(cmd)
